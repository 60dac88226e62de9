"""The review's web server: page, HTTP routes and the token in front of both."""

from __future__ import annotations

import contextlib
import secrets
import socket
import warnings
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from rl.review.access import TokenGate
from rl.review.api import add_routes
from rl.review.config import ReviewConfig
from rl.review.desk import Desk
from rl.review.page import add_page

_TOKEN_BYTES = 24


def serve(
    desk: Desk,
    cfg: ReviewConfig,
    reviewer: str,
    listener: socket.socket,
    started: Callable[[str], None],
) -> None:
    """Serve on a bound socket until the process is interrupted.

    `started` is called with the token as soon as connections are accepted.
    """
    # To find the server NiceGUI looks at every object there is, also at deprecated ones of torch.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nicegui")
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    # FastAPI's own documentation pages would fetch their scripts from elsewhere.
    app = FastAPI(title="Review", docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, desk)
    add_page(desk, cfg, reviewer)
    ui.run_with(app, title="Review", favicon="🔎", show_welcome_message=False, language="en-US")
    gate = TokenGate(app, token, cookie=f"keye_review_{listener.getsockname()[1]}")
    listener.listen()
    started(token)
    server = uvicorn.Server(
        uvicorn.Config(gate, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
    )
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
