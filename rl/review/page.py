"""The review page: one item at a time, decided with the mouse or the keyboard.

Invariant: every decision names the version that was on the screen when it was made, so that what
the reviewer hasn't seen is never overwritten; an unsaved text outlives conflicts, other items and a
reload of the page.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from nicegui import events, ui

from pretrain.run.errors import KeyeError
from rl.review.config import ReviewConfig
from rl.review.decisions import Decision, StaleDecision
from rl.review.desk import Desk, Draft, ItemState
from rl.review.parts import (
    CSS,
    ICONS,
    draw_candidates,
    draw_conflict,
    draw_history,
    draw_question,
    draw_response,
    head,
    help_dialog,
    key,
)

FILTERS: dict[str, Callable[[ItemState], bool]] = {
    "all": lambda state: True,
    "open": lambda state: not state.done,
    "decided": lambda state: state.done,
    "grade A": lambda state: state.item.grade == "A",
    "grade B": lambda state: state.item.grade == "B",
    "with candidates": lambda state: bool(state.item.candidates),
}
_LISTED = 60
"""Rows of the list around the current item: thousands would make the browser slow."""
_POLL_SECONDS = 2.0


def add_page(desk: Desk, cfg: ReviewConfig, default_reviewer: str) -> None:
    """Serve the page at `/`; `?reviewer=` signs, `?item=` opens an item."""

    @ui.page("/", response_timeout=30)
    def page(reviewer: str = "", item: str = "") -> None:
        ui.add_css(CSS)
        # Dark enough for white text, which the default colours are not.
        ui.colors(primary="#1f5fbf", secondary="#4a5a78", positive="#1e7d34", negative="#b3261e")
        Screen(desk, cfg, reviewer or default_reviewer, item).build()


class Screen:
    """One reviewer's page: what is shown and what the keys do."""

    def __init__(self, desk: Desk, cfg: ReviewConfig, reviewer: str, id: str) -> None:
        self.desk, self.cfg, self.reviewer = desk, cfg, reviewer
        self.filter = "all"
        ids = [item.id for item in desk.items]
        open_ids = [state.item.id for state in desk.states() if not state.done]
        self.id = id if id in ids else (open_ids or ids)[0]
        self.state = desk.state(self.id)
        """The item with the version on the screen, on which decisions are based."""
        self.text: str | None = None
        """What stands in the editor; None while it is closed."""
        self.conflict: Decision | None = None
        self.ranks: dict[int, int] = {}
        self._open(self.id)

    # ------------------------------------------------------------------------------ drawing

    def build(self) -> None:
        """Draw the page."""
        self.help = help_dialog()
        with ui.header().classes("items-center gap-4 px-4 py-2 bg-blue-grey-9"):
            ui.label("Review").classes("text-lg font-medium")
            self.progress = ui.label().classes("text-sm")
            ui.space()
            name = ui.input(label="Reviewer", value=self.reviewer).props("dark dense outlined")
            for leave in ("blur", "keydown.enter"):
                name.on(leave, lambda: self._rename(name.value))
            ui.button("Export", icon="download", on_click=self._export).props(
                "flat color=white no-caps"
            ).tooltip("Label Studio tasks (JSONL)")
            ui.button(icon="help_outline", on_click=self.help.open).props(
                'flat round color=white aria-label="Keys"'
            )
        with ui.left_drawer(value=True, bordered=True).classes("bg-white p-2").props("width=270"):
            shown = ui.select(
                list(FILTERS), value=self.filter, label="Show", on_change=self._refilter
            )
            shown.props("dense outlined").classes("w-full")
            self._list()
        with ui.column().classes("w-full max-w-screen-2xl mx-auto p-2 pb-20"):
            self._body()
        with ui.footer().classes("bg-white px-4 py-2 border-t"):
            self._buttons()
        # Buttons keep the focus after a click; keys must work then, too.
        ui.keyboard(on_key=self._on_key, repeating=False, ignore=["input", "select", "textarea"])
        ui.timer(_POLL_SECONDS, self._poll)
        self._remember_address()

    @ui.refreshable_method
    def _list(self) -> None:
        states = self.desk.states()
        done = sum(state.done for state in states)
        self.progress.set_text(f"{done} of {len(states)} decided")
        shown = [state for state in states if self._is_shown(state)]
        here = next((k for k, state in enumerate(shown) if state.item.id == self.id), 0)
        first = max(0, min(here - _LISTED // 2, len(shown) - _LISTED))
        if first:
            ui.label(f"{first} more above").classes("text-xs text-grey-7 p-2")
        with ui.list().props("dense").classes("w-full"):
            for state in shown[first : first + _LISTED]:
                self._row(state)
        if len(shown) > first + _LISTED:
            ui.label(f"{len(shown) - first - _LISTED} more below").classes("text-xs p-2")

    def _row(self, state: ItemState) -> None:
        icon, color = ICONS[state.status]
        if state.status == "open" and state.ranking:
            icon, color = "format_list_numbered", "primary"
        here = "review-here" if state.item.id == self.id else ""
        with ui.item(on_click=lambda _, id=state.item.id: self.go(id)).classes(f"rounded {here}"):
            with ui.item_section().props("avatar").style("min-width:28px;padding-right:8px"):
                ui.icon(icon, color=color)
            with ui.item_section():
                ui.item_label(state.item.id).classes("text-sm").props("lines=1")
                ui.item_label(state.item.sample.task_type).props("caption lines=1")
            with ui.item_section().props("side"), ui.row().classes("gap-1"):
                if (self.reviewer, state.item.id) in self.desk.drafts:
                    ui.badge("draft", color="orange-8")
                if state.item.grade:
                    colour = "green-8" if state.item.grade == "A" else "orange-9"
                    ui.badge(state.item.grade, color=colour)

    @ui.refreshable_method
    def _body(self) -> None:
        state, item = self.state, self.state.item
        if self.conflict is not None:
            draw_conflict(self.conflict, self.text, state.response)
        with ui.row().classes("items-center gap-3 w-full"):
            ui.label(item.id).classes("text-lg font-medium review-id")
            ui.label(f"{item.sample.task_type} · {item.sample.mode}").classes("text-grey-8")
            if item.grade:
                what = {"A": "answer and reasoning right", "B": "reasoning flawed"}[item.grade]
                ui.badge(f"grade {item.grade}: {what}").props(
                    f"color={'green-8' if item.grade == 'A' else 'orange-9'}"
                ).classes("p-2")
            status = "ranked" if state.status == "open" and state.ranking else state.status
            ui.badge(f"{status}, version {state.version}").props(
                f"outline color={ICONS[state.status][1]}"
            ).classes("p-2 review-status")
        with ui.element("div").classes("review-grid"):
            with ui.element("div"):
                draw_question(state, self.desk)
            with ui.element("div"):
                if self.text is not None:
                    self._editor()
                draw_response(state, self.cfg)
                if item.candidates:
                    draw_candidates(item.candidates, self.ranks, self._rank, self._clear_ranks)
                draw_history(state, self.edit)

    def _editor(self) -> None:
        with ui.element("section").classes("review-card mb-4").props('aria-label="Editor"'):
            head(f"Your text, based on version {self.state.version}")
            area = (
                ui.textarea(value=self.text, on_change=lambda e: self._write(e.value))
                .props('autogrow outlined aria-label="Edited response"')
                .classes("w-full font-mono review-editor")
            )
            area.on("keydown.ctrl.enter", self.save).on("keydown.meta.enter", self.save)
            area.on("keydown.esc", self.cancel)
            area.run_method("focus")

    @ui.refreshable_method
    def _buttons(self) -> None:
        def button(label: str, cap: str, action: Callable[[], None], props: str) -> None:
            with (
                ui.button(on_click=action).props(f"no-caps unelevated {props}"),
                ui.row().classes("items-center gap-2"),
            ):
                ui.label(label)
                key(cap)

        if self.text is not None:
            button("Save", "Ctrl+Enter", self.save, "color=primary")
            button("Cancel", "Esc", self.cancel, "flat color=grey-9")
            return
        button("Accept", "a", self.accept, "color=positive")
        button("Edit", "e", self.edit, "color=primary")
        button("Drop", "d", self.drop, "color=negative")
        if self.state.item.candidates:
            button("Save ranking", "Ctrl+Enter", self.save, "color=secondary")
        ui.space()
        button("Previous", "k", lambda: self.move(-1), "flat color=grey-9")
        button("Next", "j", lambda: self.move(1), "flat color=grey-9")

    def _redraw(self) -> None:
        self._list.refresh()
        self._body.refresh()
        self._buttons.refresh()

    # ------------------------------------------------------------------------------ moving

    def _is_shown(self, state: ItemState) -> bool:
        return FILTERS[self.filter](state)

    def go(self, id: str) -> None:
        """Show an item; a text that was being edited is kept as a draft."""
        self._open(id)
        self._remember_address()
        self._redraw()

    def _open(self, id: str) -> None:
        """Make an item the current one, with the draft that was left there."""
        self.id, self.state = id, self.desk.state(id)
        self.ranks = dict(enumerate(self.state.ranking or ()))
        self.text, self.conflict = None, None
        draft = self.desk.drafts.get((self.reviewer, id))
        if draft is not None:
            self.text = draft.text
            if draft.base_version < self.state.version:
                self.conflict = self.state.history[-1]

    def move(self, step: int, only_open: bool = False) -> None:
        """Go `step` items on among those in the list; stay if there is none."""
        states = self.desk.states()
        here = next(k for k, state in enumerate(states) if state.item.id == self.id)
        others = states[here + 1 :] + states[:here] if step > 0 else states[:here][::-1]
        if step > 0 and not only_open:
            others = states[here + 1 :]
        for state in others:
            if self._is_shown(state) and not (only_open and state.done):
                self.go(state.item.id)
                return
        if only_open:
            self.go(self.id)
            ui.notify("Nothing is left to decide in this list.", type="positive")
        else:
            ui.notify("No more items in this direction.")

    def _refilter(self, event: events.ValueChangeEventArguments) -> None:
        self.filter = event.value
        if not self._is_shown(self.state):
            first = next((s for s in self.desk.states() if self._is_shown(s)), None)
            if first is not None:
                self.go(first.item.id)
                return
        self._list.refresh()

    def _rename(self, name: str) -> None:
        draft = self.desk.drafts.pop((self.reviewer, self.id), None)
        self.reviewer = name.strip()
        if draft is not None:
            self.desk.drafts[self.reviewer, self.id] = draft
        self._remember_address()

    def _remember_address(self) -> None:
        """So that a reload shows the same item to the same reviewer."""
        query = urlencode({"reviewer": self.reviewer, "item": self.id})
        ui.navigate.history.replace(f"/?{query}")

    def _poll(self) -> None:
        """Show what others have decided; never change the version under an editor."""
        try:
            state = self.desk.state(self.id)
        except KeyeError as error:
            ui.notify(str(error), type="negative", group="poll")
            return
        if state.version != self.state.version and self.text is None:
            if state.history:  # empty if someone has removed lines of the file
                newest = state.history[-1]
                ui.notify(f"{newest.reviewer} has just decided on this item: {newest.action}.")
            self.state = state
            self._redraw()

    def _export(self) -> None:
        ui.download.from_url("/api/export")

    # ------------------------------------------------------------------------------ deciding

    def _decide(
        self, action: str, response: str | None = None, ranking: list[int] | None = None
    ) -> bool:
        """Write a decision on what is shown; a conflict or another problem is shown instead."""
        try:
            self.desk.decide(self.id, self.state.version, action, self.reviewer, response, ranking)
        except StaleDecision as error:
            self.conflict = error.current
            # They are on the screen now, so the next decision may be based on theirs.
            self.state = self.desk.state(self.id)
            if self.text is not None:
                self._write(self.text)
            self._redraw()
            return False
        except KeyeError as error:
            ui.notify(str(error), type="negative", multi_line=True, timeout=10_000)
            return False
        ui.notify({"rank": "ranked"}.get(action, f"{action.rstrip('e')}ed"), type="positive")
        self.conflict = None
        return True

    def accept(self) -> None:
        """The text that stands is right."""
        if self._decide("accept"):
            self.move(1, only_open=True)

    def drop(self) -> None:
        """The item is not to be used."""
        if self._decide("drop"):
            self.move(1, only_open=True)

    def edit(self, content: str | None = None) -> None:
        """Open the editor on `content` or, without it, on the text that stands."""
        self._write(self.state.response if content is None else content)
        self._body.refresh()
        self._buttons.refresh()

    def cancel(self) -> None:
        """Close the editor and forget its text."""
        self.desk.drafts.pop((self.reviewer, self.id), None)
        self.go(self.id)

    def save(self) -> None:
        """Save the edit that is open, or else the ranking."""
        if self.text is not None:
            if self._decide("edit", response=self.text):
                self.desk.drafts.pop((self.reviewer, self.id), None)
                self.text = None
                self.move(1, only_open=True)
            return
        count = len(self.state.item.candidates)
        if not count:
            return
        if len(self.ranks) < count:
            ui.notify(f"{count - len(self.ranks)} candidates have no rank yet.", type="warning")
            return
        if self._decide("rank", ranking=[self.ranks[number] for number in range(count)]):
            self.move(1, only_open=True)

    def _write(self, text: str) -> None:
        """Take over what stands in the editor, as a draft on the version that is shown."""
        self.text = text
        self.desk.drafts[self.reviewer, self.id] = Draft(text, self.state.version)

    def _rank(self, number: int, rank: int | None) -> None:
        if rank is not None:
            self.ranks[number] = rank

    def _clear_ranks(self) -> None:
        self.ranks = {}
        self._body.refresh()

    def _rank_next(self, number: int) -> None:
        """Give a candidate the next rank."""
        if number < len(self.state.item.candidates) and number not in self.ranks:
            self.ranks[number] = len(self.ranks) + 1
            self._body.refresh()

    # ------------------------------------------------------------------------------ keyboard

    def _on_key(self, event: events.KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.alt or self.help.value:
            return
        name = event.key.name
        if event.modifiers.ctrl or event.modifiers.meta:
            if name == "Enter":
                self.save()
            return
        if name == "?":
            self.help.open()
        elif self.text is not None:
            if name == "Escape":
                self.cancel()
            elif name in ("a", "d", "j", "k"):
                ui.notify("Save the text (Ctrl+Enter) or leave the editor (Esc) first.")
        elif name.isdigit() and self.state.item.candidates:
            self._clear_ranks() if name == "0" else self._rank_next(int(name) - 1)
        elif name in self._actions():
            self._actions()[name]()

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            "a": self.accept,
            "e": self.edit,
            "d": self.drop,
            "j": lambda: self.move(1),
            "k": lambda: self.move(-1),
        }
