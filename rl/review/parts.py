"""The parts of the review page: functions that draw one thing and decide nothing."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from nicegui import run, ui

from pretrain.run.errors import KeyeError
from rl.review.config import ReviewConfig
from rl.review.decisions import Decision
from rl.review.desk import Desk, ItemState
from rl.review.text import confidence_hue, difference_html, split_response
from rl.tables import question

KEYS = (
    ("a", "accept the text that is shown"),
    ("e", "edit it"),
    ("d", "drop the item"),
    ("j / k", "next / previous item"),
    ("1 … 9", "with candidates: this one is the next best"),
    ("0", "with candidates: clear the ranks"),
    ("Ctrl+Enter", "save the edit, or the ranking"),
    ("Esc", "leave the editor without saving"),
    ("?", "show these keys"),
)
ICONS = {
    "open": ("radio_button_unchecked", "grey-7"),
    "accepted": ("check_circle", "positive"),
    "edited": ("edit", "primary"),
    "dropped": ("cancel", "negative"),
}
CSS = """
body { background: #f4f5f7; }
.review-grid { display: grid; gap: 16px; width: 100%;
  grid-template-columns: minmax(260px, 5fr) 8fr; }
@media (max-width: 1000px) { .review-grid { grid-template-columns: 1fr; } }
.review-card { background: white; border: 1px solid #e0e3e8; border-radius: 8px;
  padding: 14px 16px; }
.review-head { font-size: 12px; font-weight: 600; color: #5b6472; letter-spacing: .04em;
  text-transform: uppercase; margin-bottom: 6px; }
.review-card .review-head:not(:first-child) { margin-top: 14px; }
.review-text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; }
.review-text ins { background: #d7f5dd; text-decoration: none; }
.review-text del { background: #fde0e0; }
.review-step { display: flex; gap: 10px; border-left: 4px solid; border-radius: 4px;
  padding: 5px 10px; margin-bottom: 5px; }
.review-pixel { min-width: 224px; max-width: 100%; max-height: 420px; background: #eceff3; }
.review-still { height: 96px; }
.review-key { font: 600 12px monospace; border: 1px solid #c5cad3; border-bottom-width: 2px;
  border-radius: 4px; padding: 1px 6px; background: #fafbfc; color: #333; white-space: nowrap; }
.review-here { background: #e3ecfb; }
"""


def text(content: str, classes: str = "") -> ui.label:
    """A text with its line breaks; never HTML."""
    return ui.label(content).classes(f"review-text {classes}")


def marked(content: str) -> ui.html:
    """HTML that is safe already: made by `difference_html` or `html.escape`."""
    return ui.html(content, sanitize=False).classes("review-text")


def head(title: str) -> None:
    """A card's heading."""
    ui.label(title).classes("review-head")


def key(name: str) -> None:
    """A key cap."""
    ui.label(name).classes("review-key")


def draw_question(state: ItemState, desk: Desk) -> None:
    """Media, question, reference answer and what the assessment found."""
    item = state.item
    with ui.element("section").classes("review-card").props('aria-label="Question"'):
        if item.sample.media():
            head("Media")
            box = ui.row().classes("gap-3 items-end mb-4 review-media")

            async def fill() -> None:
                await _draw_media(box, desk, item.id)

            ui.timer(0, fill, once=True)  # decoding a video must hold nobody else up
        head("Question")
        text(question(item.sample.messages), "text-base mb-4")
        head("Reference answer")
        text(item.sample.answer, "text-base font-medium")
    if item.findings:
        with ui.element("section").classes("review-card mt-4").props('aria-label="Findings"'):
            head("Findings")
            for finding in item.findings:
                with ui.row().classes("no-wrap items-start gap-2"):
                    ui.icon("warning", color="orange-8").classes("mt-1")
                    text(finding)


async def _draw_media(box: ui.row, desk: Desk, id: str) -> None:
    try:
        media = await run.io_bound(desk.media, id)
        problem = ""
    except KeyeError as error:
        media, problem = [], str(error)
    if box.is_deleted:
        return
    stills = sum(medium.kind == "image" for medium in media) > 4
    with box:
        if problem:
            text(f"The media cannot be shown: {problem}", "text-negative")
        for number, medium in enumerate(media):
            address = html.escape("/media?" + urlencode({"id": id, "number": number}))
            caption = html.escape(medium.caption)
            if medium.kind == "video":
                tag = f'<video controls class="review-pixel" src="{address}"></video>'
            else:
                size = "review-still" if stills else "review-pixel"
                tag = f'<img class="{size}" alt="{caption}" src="{address}">'
            ui.html(
                f'<figure style="margin:0">{tag}<figcaption class="text-xs text-grey-7">'
                f"{caption}</figcaption></figure>",
                sanitize=False,
            )


def draw_response(state: ItemState, cfg: ReviewConfig) -> None:
    """The reasoning in steps, each with its confidence, and the answer; then the edit, if any."""
    item = state.item
    answer = split_response(item.response)[1]
    with ui.element("section").classes("review-card").props('aria-label="Reasoning"'):
        with ui.row().classes("w-full items-start justify-between mb-1"):
            head("Reasoning of the model")
            if item.confidence is not None:
                _confidence_badge("whole response", item.confidence, cfg)
        for number, step in enumerate(item.steps, start=1):
            hue = None
            if step.confidence is not None:
                hue = confidence_hue(step.confidence, cfg.confidence_low, cfg.confidence_high)
            colour = "#c5cad3" if hue is None else f"hsl({hue} 65% 45%)"
            back = "#fafbfc" if hue is None else f"hsl({hue} 70% 96%)"
            with (
                ui.element("div")
                .classes("review-step")
                .style(f"border-color:{colour};background:{back}")
            ):
                ui.label(f"{number}").classes("text-grey-7 text-xs mt-1")
                text(step.text, "grow")
                if step.confidence is not None:
                    ui.label(f"{step.confidence:.0%}").classes("text-xs font-bold mt-1").style(
                        f"color:hsl({hue} 75% 30%)"
                    ).tooltip("probability per token of this step")
        head("Answer of the model" if item.steps else "Response of the model")
        text((answer if item.steps else item.response).strip(), "font-medium")
    if state.response != item.response:
        first = next(d for d in state.history if d.response == state.response)
        with ui.element("section").classes("review-card mt-4").props('aria-label="Edited text"'):
            head(f"Text that stands: version {first.version} by {first.reviewer}")
            marked(difference_html(item.response, state.response))


def _confidence_badge(name: str, confidence: float, cfg: ReviewConfig) -> None:
    hue = confidence_hue(confidence, cfg.confidence_low, cfg.confidence_high)
    ui.label(f"{name} {confidence:.0%}").classes("text-xs font-bold rounded px-2 py-1").style(
        f"color:hsl({hue} 75% 28%);background:hsl({hue} 70% 92%)"
    ).tooltip("probability per token")


def draw_conflict(newer: Decision, mine: str | None, shown: str) -> None:
    """What somebody else decided in the meantime; `mine` is the reviewer's unsaved text."""
    with (
        ui.element("section")
        .classes("review-card mb-4")
        .style("border-color:#e0a100;background:#fff9e8")
        .props('role="alert" aria-label="Conflict"')
    ):
        head(f"{newer.reviewer} was faster")
        kept = "Your text is kept in the editor. " if mine is not None else ""
        text(
            f"{newer.reviewer} decided on this item first ({newer.action}, version {newer.version},"
            f" {newer.time}). Your decision was not written. {kept}Look at theirs and decide again."
        )
        if mine is not None and mine != shown:
            head("From their text to yours")
            marked(difference_html(shown, mine))


def draw_history(state: ItemState, use: Callable[[str], None]) -> None:
    """All versions, the newest first, each with its text; `use(text)` puts one in the editor."""
    title = f"History: {state.version} decision{'' if state.version == 1 else 's'}"
    with ui.expansion(title, icon="history").classes("review-card w-full mt-4 review-history"):
        texts: list[tuple[str, str | None]] = [
            ("Version 0: the model's response", state.item.response)
        ]
        for decision in state.history:
            note = f"Version {decision.version}: {decision.action} by {decision.reviewer}, "
            ranks = f" (ranks {', '.join(map(str, decision.ranking))})" if decision.ranking else ""
            texts.append((note + decision.time + ranks, decision.response))
        for note, content in reversed(texts):
            with ui.element("div").classes("py-2 w-full"):
                with ui.row().classes("items-center gap-2"):
                    ui.label(note).classes("text-sm font-medium")
                    if content is not None:
                        ui.button("use this text", on_click=lambda _, t=content: use(t)).props(
                            "flat dense no-caps size=sm"
                        )
                if content is not None:
                    text(content, "text-sm text-grey-8")


def draw_candidates(
    candidates: Sequence[str],
    ranks: dict[int, int],
    choose: Callable[[int, int | None], None],
    clear: Callable[[], None],
) -> None:
    """Candidates with their ranks; `choose(candidate, rank)` from 0 and from 1."""
    options = list(range(1, len(candidates) + 1))
    with ui.element("section").classes("review-card mt-4").props('aria-label="Candidates"'):
        with ui.row().classes("w-full items-center justify-between"):
            head("Candidates: rank them, 1 is the best; equal ranks are ties")
            ui.button("clear", on_click=clear).props("flat dense no-caps size=sm")
        for number, candidate in enumerate(candidates):
            with ui.row().classes("no-wrap items-start gap-3 py-2 w-full"):
                key(str(number + 1))
                text(candidate, "grow")
                ui.toggle(
                    options,
                    value=ranks.get(number),
                    on_change=lambda e, n=number: choose(n, e.value),
                ).classes("review-rank").props(
                    f'dense no-caps unelevated padding="2px 12px" color=grey-3 text-color=grey-9 '
                    f'toggle-color=primary aria-label="Rank of candidate {number + 1}"'
                )


def help_dialog() -> ui.dialog:
    """The keys and what they do."""
    with ui.dialog() as dialog, ui.card():
        ui.label("Keys").classes("text-lg font-medium")
        with ui.grid(columns="auto 1fr").classes("items-center gap-x-4 gap-y-2"):
            for name, what in KEYS:
                with ui.row():
                    key(name)
                ui.label(what)
        ui.label(
            "Every decision is a new version; none is overwritten. A decision can be changed by "
            "deciding again."
        ).classes("text-grey-8 max-w-md")
        ui.button("close", on_click=dialog.close).props("flat")
    return dialog
