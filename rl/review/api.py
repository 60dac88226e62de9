"""The review over HTTP: lists, items, media, decisions, export and import.

| request | answer |
|---|---|
| `GET /api/items` | `[{id, task_type, grade, confidence, candidates, status, ranked, version}]` |
| `GET /api/item?id=ID` | the item, its history, the text that stands, its media's captions |
| `GET /media?id=ID&number=N` | medium N (from 0) as PNG, or a video |
| `POST /api/decisions` | 201 with the decision; 409 with the newer one if it is stale |
| `GET /api/export` | Label Studio tasks as JSONL |
| `POST /api/import` | `{added, known, refused}` for a body of Label Studio tasks |

A decision is posted as `{id, base_version, action, reviewer, response?, ranking?}`. Errors are
`{"error": text}` with 400 for what is wrong, 404 for an unknown id, 409 for a stale decision.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from pretrain.run.errors import KeyeError
from rl.review.decisions import StaleDecision
from rl.review.desk import Desk
from rl.review.label_studio import export_tasks, import_tasks
from rl.tables import question

_NEEDED = {"id", "base_version", "action", "reviewer"}
_KNOWN = _NEEDED | {"response", "ranking"}


def add_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes of one review to `app`."""
    _add_errors(app)
    _add_reading(app, desk)
    _add_writing(app, desk)


class UnknownItem(KeyeError):
    """A request names an item that the review doesn't have."""


def _known(desk: Desk, id: Any) -> str:
    try:
        return desk.item(id).id
    except (KeyError, TypeError):
        raise UnknownItem(f"no item has the id {id!r}; GET /api/items lists them") from None


def _add_errors(app: FastAPI) -> None:
    def answer(status: int, error: Exception, **more: Any) -> JSONResponse:
        return JSONResponse({"error": str(error)} | more, status_code=status)

    @app.exception_handler(KeyeError)
    async def wrong(request: Request, error: KeyeError) -> JSONResponse:
        return answer(400, error)

    @app.exception_handler(UnknownItem)
    async def unknown(request: Request, error: UnknownItem) -> JSONResponse:
        return answer(404, error)

    @app.exception_handler(StaleDecision)
    async def stale(request: Request, error: StaleDecision) -> JSONResponse:
        return answer(409, error, current=error.current.to_row())


def _add_reading(app: FastAPI, desk: Desk) -> None:
    # None of these is async: decoding runs in a thread and holds nobody else up.
    @app.get("/api/items")
    def items() -> list[dict[str, Any]]:
        return [state.summary() for state in desk.states()]

    @app.get("/api/item")
    def item(id: str) -> dict[str, Any]:
        state = desk.state(_known(desk, id))
        entry = state.item
        return state.summary() | {
            "mode": entry.sample.mode,
            "question": question(entry.sample.messages),
            "answer": entry.sample.answer,
            "original": entry.response,
            "response": state.response,
            "steps": [{"text": s.text, "confidence": s.confidence} for s in entry.steps],
            "findings": list(entry.findings),
            "candidates": list(entry.candidates),
            "ranking": state.ranking,
            "history": [decision.to_row() for decision in state.history],
            "media": [
                {"kind": medium.kind, "caption": medium.caption} for medium in desk.media(id)
            ],
        }

    @app.get("/media")
    def media(id: str, number: int) -> Response:
        found = desk.media(_known(desk, id))
        if not 0 <= number < len(found):
            raise UnknownItem(f"item {id!r} has {len(found)} media; number {number} is not there")
        medium = found[number]
        headers = {"cache-control": "private, max-age=3600"}
        if isinstance(medium.content, bytes):
            return Response(medium.content, media_type=medium.mime, headers=headers)
        return FileResponse(medium.content, media_type=medium.mime, headers=headers)

    @app.get("/api/export")
    def export() -> Response:
        # All of it before the first byte is sent, so that what cannot be read is a proper error.
        lines = [json.dumps(task, ensure_ascii=False) + "\n" for task in export_tasks(desk)]
        headers = {"content-disposition": 'attachment; filename="label_studio.jsonl"'}
        return Response("".join(lines), media_type="application/jsonl", headers=headers)


def _add_writing(app: FastAPI, desk: Desk) -> None:
    @app.post("/api/decisions", status_code=201)
    async def decisions(request: Request) -> dict[str, Any]:
        try:
            body = json.loads(await request.body())
        except ValueError as error:
            raise KeyeError(f"the body is not valid JSON ({error})") from None
        given = set(body) if isinstance(body, dict) else set()
        if not given >= _NEEDED or not given <= _KNOWN:
            raise KeyeError(
                f"a decision is an object with {', '.join(sorted(_NEEDED))} and, where the action "
                f"needs it, response or ranking; got {sorted(given)}"
            )
        _known(desk, body["id"])
        return desk.decide(**body).to_row()

    @app.post("/api/import")
    async def imports(request: Request) -> dict[str, Any]:
        report = import_tasks(desk, await request.body(), "body")
        return {"added": report.added, "known": report.known, "refused": report.refused}
