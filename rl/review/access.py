"""Who may talk to the review server: whoever knows its token.

Invariant: without the token nothing is answered but 403, neither pages nor files nor websockets,
and a page of another origin in the same browser cannot use the reviewer's cookie.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REFUSAL = (
    b"403: this review needs its token. Open the address that `python -m rl review` printed.\n"
)
# Nobody else's page may frame this one, and no address with a token is told to anyone.
HEADERS = [
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


class TokenGate:
    """ASGI middleware that lets requests with the token through.

    The token comes as `?token=` (from the page itself a browser is then sent to the same address
    without it, with a cookie), as `Authorization: Bearer TOKEN`, or as that cookie.

    Args:
        app: what is protected.
        token: the secret.
        cookie: name of the cookie; one for each port, because browsers share cookies among ports.
    """

    def __init__(self, app: App, token: str, cookie: str) -> None:
        self.app, self.token, self.cookie = app, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, redirect, or pass on."""
        if scope["type"] not in ("http", "websocket"):  # the server's own start and stop
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in query if key == "token"]
        if not self._allowed(headers, given):
            await _refuse(scope, send)
        elif given and scope["type"] == "http" and scope["path"] == "/":
            rest = urlencode([(key, value) for key, value in query if key != "token"])
            cookie = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            location = f"/?{rest}" if rest else "/"
            moved = [(b"location", location.encode()), (b"set-cookie", cookie.encode())]
            await _answer(303, moved, b"", send)
        else:
            await self.app(scope, receive, _with_headers(send))

    def _allowed(self, headers: dict[str, str], given: list[str]) -> bool:
        """Whether some given token is right, and none comes from another origin's page."""
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return False
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if given:
            candidates = given
        elif scheme.lower() == "bearer":
            candidates = [bearer]
        else:
            candidates = [_cookies(headers).get(self.cookie, "")]
        return all(secrets.compare_digest(c.encode(), self.token.encode()) for c in candidates)


def _cookies(headers: dict[str, str]) -> dict[str, str]:
    try:
        jar = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":  # closed before it is accepted: the server answers 403
        await send({"type": "websocket.close", "code": 1008})
        return
    await _answer(403, [(b"content-type", b"text/plain; charset=utf-8")], REFUSAL, send)


async def _answer(status: int, headers: list[tuple[bytes, bytes]], body: bytes, send: Send) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers + HEADERS})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def sender(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return sender
