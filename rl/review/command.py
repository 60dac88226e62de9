"""`python -m rl review items=FILE`: the review page, and its export and import.

Invariant: the server listens on 127.0.0.1 only, with a new random token each time it starts. The
user interface is imported when it is served, so that the rest of `rl` does without it.
"""

from __future__ import annotations

import getpass
import socket
from pathlib import Path

from pretrain.run.console import say, warn
from pretrain.run.errors import KeyeError
from rl.review.config import ReviewConfig
from rl.review.desk import Desk, open_desk
from rl.review.label_studio import export_file, import_tasks

HOST = "127.0.0.1"


def run_review(cfg: ReviewConfig) -> int:
    """Serve the page until Ctrl-C, or export or import; exit code 2 if an import was refused."""
    desk = open_desk(cfg.items, cfg.decisions, cfg.media)
    if cfg.export_to:
        count = export_file(desk, Path(cfg.export_to))
        interface = Path(cfg.export_to).with_suffix(".xml")
        say(f"{count} Label Studio tasks: {cfg.export_to}, their labelling interface: {interface}")
        return 0
    if cfg.import_from:
        return _import(desk, Path(cfg.import_from))
    _serve(desk, cfg)
    return 0


def _import(desk: Desk, path: Path) -> int:
    if not path.is_file():
        raise KeyeError(f"import_from={path} is no file")
    report = import_tasks(desk, path.read_bytes(), str(path))
    for reason in report.refused:
        warn(reason)
    say(
        f"{report.added} decisions added to {desk.log.path}, {report.known} were there, "
        f"{len(report.refused)} refused"
    )
    return 2 if report.refused else 0


def _serve(desk: Desk, cfg: ReviewConfig) -> None:
    with _listen(cfg.port) as listener:
        from rl.review.server import serve

        port = listener.getsockname()[1]

        def started(token: str) -> None:
            say(f"{len(desk.items)} items of {cfg.items}; decisions go to {desk.log.path}")
            say(f"Review: http://{HOST}:{port}/?token={token}")
            say("Who knows this address can decide. Ctrl-C stops the server.")

        serve(desk, cfg, cfg.reviewer or _login(), listener, started)
    say(f"decisions: {desk.log.path}")


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise KeyeError(
            f"port={port} cannot be used ({error.strerror}). Choose another, or port=0 for a free "
            "one."
        ) from None
    return listener


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "reviewer"
