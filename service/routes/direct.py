"""Routes whose function takes the request, and text of its address at most, and gives the whole answer.

FastAPI would look for dependencies, open four exit stacks and check what comes back. That costs as much as the answer
to a query that was asked before, and these functions use nothing of it. What OpenAPI says of them is the same.
"""

from typing import Any

from fastapi.dependencies.models import Dependant
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from anykey.service.access.guard import GuardedRoute


class DirectRoute(GuardedRoute):
    """A route that calls its function, and sends what that gives.

    The function takes the request and what is named in the path, as `str`, or behind it, as `str | None`; it reads all
    else that it needs from the request, and gives a `Response`. Errors go to the handlers of the application, as those
    of all routes.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        """As the framework's.

        Raises:
            KeyError: the table has no such route.
            TypeError: the function wants something else.
        """
        super().__init__(*args, **settings)
        if self.body_field or not _is_plain(self.dependant):
            raise TypeError(f"{self.name}: expected a function of the request, and of text in its address")
        self._names_in_path = [param.name for param in self.dependant.path_params]
        self._names_behind_path = [param.name for param in self.dependant.query_params]
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        named = {name: request.path_params[name] for name in self._names_in_path}
        if scope["query_string"]:
            given = request.query_params
            named |= {name: given[name] for name in self._names_behind_path if name in given}
        response = await self.endpoint(request, **named)
        await response(scope, receive, send)


def _is_plain(wanted: Dependant) -> bool:
    """Whether a function wants nothing that the framework would have to find, convert or check."""
    if wanted.header_params or wanted.cookie_params or wanted.dependencies:
        return False
    in_path = all(param.field_info.annotation is str for param in wanted.path_params)
    return in_path and all(param.field_info.annotation == str | None for param in wanted.query_params)
