"""From the scope of a search to the Milvus expression of the keys in it."""

from collections.abc import Collection as Listed

from anykey.encoder.item import Modality
from anykey.index.errors import MAX_NAMES_SHOWN, InvalidSearchError, UnknownPoolError
from anykey.index.filtering.conditions import Condition, matches
from anykey.index.key_index import Scope
from anykey.index.milvus.collection import Collection
from anykey.index.milvus.expressions import both, expression_of, holds, holds_any, listed
from anykey.index.queries import is_unicode

_RECORDS_LOOKED_AT = 1_000


def expression_of_scope(scope: Scope, collection: Collection) -> str | None:
    """The expression that holds for the keys of the scope: empty for all keys, `None` if it is plain that none is.

    Raises:
        InvalidSearchError: there is no such modality.
        IndexUnavailableError: Milvus cannot be reached or fails.
    """
    if scope.modalities is not None and not scope.modalities:
        return None
    if scope.pool is not None and not is_unicode(scope.pool):
        return None
    within = None if scope.within is None else {key for key in scope.within if is_unicode(key)}
    exclude = {key for key in scope.exclude if is_unicode(key)}
    if within is not None:
        within, exclude = within - exclude, set()
        if not within:
            return None
    filters = _filters(scope, collection)
    if collection.connection.is_lite and filters and len(within or exclude) > collection.limits.listed_by_lite:
        return _resolved(filters, within, exclude, collection)
    keys = [] if within is None else [listed("key", within)]
    if exclude:
        keys.append(listed("key", exclude, are_in=False))
    return both([*keys, *filters])


def require_pool(pool: str, collection: Collection) -> None:
    """Makes sure that there is such a pool; to be asked when a search of it found nothing.

    Raises:
        UnknownPoolError: no key is in a pool of that name.
        IndexUnavailableError: Milvus cannot be reached or fails.
    """
    if not is_unicode(pool) or not collection.count(holds("pools", pool)):
        raise UnknownPoolError(pool, _some_pools(collection))


def _some_pools(collection: Collection) -> set[str]:
    """Names of all pools, or of more than a message shows; each read finds one that is not known yet."""
    known: set[str] = set()
    while len(known) <= MAX_NAMES_SHOWN:
        unseen = ["num_pools > 0", *([f"not {holds_any('pools', known)}"] if known else [])]
        found = collection.records(both(unseen), ["pools"], _RECORDS_LOOKED_AT)
        if not found:
            break
        known.update(name for record in found for name in record["pools"])
    return known


def _filters(scope: Scope, collection: Collection) -> list[str]:
    """What modality, pool and condition ask for."""
    parts = []
    if scope.modalities is not None:
        parts.append(listed("modality", _names(scope.modalities)))
    if scope.pool is not None:
        parts.append(holds("pools", scope.pool))
    if scope.condition is not None:

        def look_up(where: str, wanted: Condition) -> list[str]:
            pages = collection.pages(where, ["metadata"])
            return [record["key"] for page in pages for record in page if matches(wanted, record["metadata"])]

        parts.append(expression_of(scope.condition, look_up, tells_dates=collection.facts.format_version > 1))
    return parts


def _names(modalities: Listed[Modality]) -> list[str]:
    try:
        return [Modality(modality).value for modality in modalities]
    except ValueError as error:
        raise InvalidSearchError(f"unknown modality: {error}; expected some of {', '.join(Modality)}") from error


def _resolved(filters: list[str], within: set[str] | None, exclude: set[str], collection: Collection) -> str | None:
    """The same keys by name alone."""
    pages = collection.pages(both(filters), [], page_records=collection.limits.found)
    found = {record["key"] for page in pages for record in page} - exclude
    keys = found if within is None else found & within
    return listed("key", keys) if keys else None
