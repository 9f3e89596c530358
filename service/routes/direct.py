"""Routes whose function is given the request alone and gives the whole answer, so that the framework has nothing to do.

FastAPI would look for dependencies, open four exit stacks and check what comes back. That costs as much as the answer
to a query that was asked before, and these functions use nothing of it. What OpenAPI says of them is the same.
"""

from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from anykey.service.access.guard import GuardedRoute


class DirectRoute(GuardedRoute):
    """A route that calls its function, and sends what that gives.

    The function takes the request, reads all that it needs from it, and gives a `Response`. Errors go to the handlers
    of the application, as those of all routes.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        """As the framework's.

        Raises:
            KeyError: the table has no such route.
            TypeError: the function wants more than the request.
        """
        super().__init__(*args, **settings)
        wanted = self.dependant
        if wanted.path_params or wanted.query_params or wanted.header_params or wanted.dependencies or self.body_field:
            raise TypeError(f"{self.name}: expected a function of the request alone")
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
