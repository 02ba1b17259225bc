"""What no route answers: 405 with the methods that the path has (RFC 9110, section 15.5.6), or 404.

It stands behind the routes and before the page, whose files would answer for them.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from pipeline.serve.http.problems import Problem

#: Methods that a route may have.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Nowhere:
    """ASGI: the problem of a request that no route of the application answers."""

    def __init__(self, app: FastAPI) -> None:
        self.routes = tuple(app.router.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one."""
        problem = Problem(404, "nothing is at this path")
        if allowed := ", ".join(each for each in METHODS if self._has(scope, each)):
            problem = Problem(405, f"this path takes {allowed}", {"Allow": allowed})
        await problem.response()(scope, receive, send)

    def _has(self, scope: Scope, method: str) -> bool:
        asked = {**scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in self.routes)


def install(app: FastAPI, below: str) -> None:
    """Answer for what is below a path and no route that was added so far answers."""
    app.router.routes.append(Route(f"{below}{{rest:path}}", Nowhere(app)))
