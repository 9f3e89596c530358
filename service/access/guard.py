"""The kind of route that lets in those who may ask for it."""

from typing import Any

from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from anykey.service.access.api_keys import AccessScope
from anykey.service.access.callers import CALLER, EVERYBODY, HOW, Caller
from anykey.service.access.needs import OF_SERVICE, Need, need_of
from anykey.service.errors import ForbiddenError, UnauthorizedError
from anykey.service.lifecycle import INDEX_NAME, Lifecycle
from anykey.service.operations.records import CURRENT
from anykey.service.requests.context import LOG_FIELDS


class GuardedRoute(APIRoute):
    """A route that lets in those who may ask for it, before anything of the request is read."""

    def __init__(self, path: str, *args: Any, **options: Any) -> None:
        """As the framework's.

        Raises:
            KeyError: the table has no such route.
        """
        super().__init__(path, *args, **options)
        methods = sorted(self.methods or ())
        self.needs = {method: need_of(method, path) for method in methods}
        self._is_of_service = all(f"{method} {path}" in OF_SERVICE for method in methods)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or raises why its caller may not ask."""
        need = self.needs.get(scope["method"], Need.NOTHING)  # another method is refused whoever asks
        lifecycle: Lifecycle = scope["app"].state.lifecycle
        if not lifecycle.callers.are_required:
            scope[CALLER] = EVERYBODY
        elif need is not Need.NOTHING:
            self._admit(scope, lifecycle, need)
        if lifecycle.rate_limits.are_set and need is not Need.NOTHING:
            receive = await lifecycle.rate_limits.admit(scope, receive)
        await super().handle(scope, receive, send)

    def _admit(self, scope: Scope, lifecycle: Lifecycle, need: Need | AccessScope) -> None:
        caller = scope[CALLER] = lifecycle.callers.find(scope["headers"])
        if caller.name is not None:
            scope[LOG_FIELDS]["api_key"] = caller.name
            if (record := CURRENT.get()) is not None:
                record.key_name = caller.name
        if isinstance(need, AccessScope):
            caller.require(need)
        elif not caller.scopes:
            if caller.name is None:
                raise UnauthorizedError(f"expected an API key: {HOW}")
            raise ForbiddenError(f"{caller.title} has none of the scopes that are known here")
        if caller.indexes is not None and not self._is_of_service:
            _require_index(caller, scope["path_params"].get(INDEX_NAME), lifecycle)


def _require_index(caller: Caller, named: str | None, lifecycle: Lifecycle) -> None:
    """Returns if a caller that is limited to some indexes may see this one, the default one if none is named.

    Raises:
        NotFoundError: it may not see the one that is named.
        ForbiddenError: it may not see the default one.
    """
    if named is not None and not caller.may_see(named):
        raise lifecycle.indexes.unknown(named, caller.indexes)
    if named is None and not caller.may_see(lifecycle.indexes.default):
        own = ", ".join(sorted(caller.indexes or ()))
        raise ForbiddenError(f"{caller.title} is limited to {own or 'no index'}: ask at /indexes/NAME/...")
