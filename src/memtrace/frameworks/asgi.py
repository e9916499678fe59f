"""ASGI middleware: each request of a server is a step of the trace, called by its route.

    from memtrace.frameworks.asgi import MemtraceMiddleware

    app.add_middleware(MemtraceMiddleware)    Starlette, FastAPI
    app = MemtraceMiddleware(app)             any ASGI application

Then `memtrace peak --by step` says which request held the memory, with the shapes that the model
was given: "POST /generate · input_ids [4, 512] · step 17". Requests that are answered at once are
told apart, in asyncio and in thread pools (memtrace.step says how).

A step lasts until the application has done with the request: a streamed response is in it, and so
are background tasks. It is named by its route where the framework tells the parameters of the path
("GET /items/{item_id}"), else by its path; never by its query, which may hold secrets. While
nothing is being recorded a request costs one look at whether something is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from memtrace import recording
from memtrace.session import step

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

KIND = "request"
#: Paths that no route was found for may be anything: so many, of so many characters, are told.
_MOST_PATHS = 1000
_LONGEST_PATH = 200


class MemtraceMiddleware:
    """Marks each HTTP request and each websocket as a step; lifespan events pass untouched."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self._paths: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One look at whether something is recorded, and the application."""
        if recording.current() is None or scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        # What it is called now is told if the program is killed in it.
        method, path = scope.get("method", "WEBSOCKET"), str(scope.get("path", ""))
        with step(f"{method} {self._known(path)}", kind=KIND) as request:
            try:
                await self.app(scope, receive, send)
            finally:
                route = _route(scope, path)
                if route is not None:
                    request.name = f"{method} {route}"

    def _known(self, path: str) -> str:
        path = path[:_LONGEST_PATH]
        if path not in self._paths:
            if len(self._paths) >= _MOST_PATHS:
                return "..."
            self._paths.add(path)
        return path


def _route(scope: Scope, path: str) -> str | None:
    """The path with the names of its parameters for their values; None: no route was found."""
    if "path_params" not in scope:
        return None
    end = len(path)
    for name, value in reversed(scope["path_params"].items()):
        text = str(value).lower()
        start = path.lower().rfind(f"/{text}", 0, end) + 1
        after = start + len(text)
        if start == 0 or path[after : after + 1] not in ("", "/"):
            template = getattr(scope.get("route"), "path", None)  # not written as it was read
            return template if isinstance(template, str) else None
        path = f"{path[:start]}{{{name}}}{path[after:]}"
        end = start
    return path[:_LONGEST_PATH]
