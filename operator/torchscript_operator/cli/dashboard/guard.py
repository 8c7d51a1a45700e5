"""Who may ask: only who knows the token, from this machine, and no page of another site.

A page of another site can make a browser send requests to this machine, and by DNS rebinding even read the answers.
So every path begins with a token that only the user's terminal has shown, the Host has to be this machine's, and what
a browser marks as coming from elsewhere is refused.
"""

import secrets
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = frozenset({"127.0.0.1", "localhost"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy of the page: nothing from elsewhere, nothing inline, no text made into elements."""
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; sandbox"
"""Of a report, which lies in a store that others write to: it may look as it likes, and do nothing."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
UNKNOWN = "This is tsm dashboard. Use the address that it has printed; it changes each time it is started.\n"


class Guard:
    """Refuses whom it may not answer, takes the token off the path, and adds the headers."""

    def __init__(self, app: ASGIApp, token: str, ticket: str | None = None) -> None:
        """Take the app, the token, and a ticket.

        The ticket is a path that leads to the token's once: for a browser's command line, which others on this
        machine can read.
        """
        self.app = app
        self.token = token
        self.ticket = ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def adorned(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", POLICY)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        _, _, rest = scope["path"].partition("/")
        given, slash, path = rest.partition("/")
        if refusal is not None:
            await refusal(scope, receive, adorned)
        elif self.ticket is not None and not slash and _same(given, self.ticket):
            self.ticket = None
            # Where the address has a fragment, the browser takes it along.
            moved = PlainTextResponse("", HTTPStatus.SEE_OTHER, {"Location": f"/{self.token}/"})
            await moved(scope, receive, adorned)
        elif not (slash and _same(given, self.token)):
            await PlainTextResponse(UNKNOWN, HTTPStatus.NOT_FOUND)(scope, receive, adorned)
        else:
            await self.app({**scope, "path": f"/{path}", "raw_path": None}, receive, adorned)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        if _host(headers) not in HOSTS:
            return PlainTextResponse("The Host is not this machine.\n", HTTPStatus.MISDIRECTED_REQUEST)
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{headers['host']}":
            return PlainTextResponse("Other sites may not ask.\n", HTTPStatus.FORBIDDEN)
        opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not opened:
            return PlainTextResponse("Other sites may not ask.\n", HTTPStatus.FORBIDDEN)
        if method not in {"GET", "HEAD"}:
            return PlainTextResponse("Nothing can be changed here.\n", HTTPStatus.METHOD_NOT_ALLOWED)
        return None


def _host(headers: Headers) -> str | None:
    """The name that was asked for, without the port: a tunnel may have another one."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return None


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())
