"""What all endpoints of others share: how they are connected to, and their index as far as the dataset tells of it."""

from collections import Counter
from typing import Any

from anykey.benchmark.connection import Connection
from anykey.benchmark.dataset import Dataset
from anykey.benchmark.settings import QualitySettings


def connection_to(settings: QualitySettings, url: str, headers: dict[str, str] | None) -> Connection:
    """A connection as the settings want it.

    Raises:
        EndpointUnreachableError: the URL is none.
    """
    return Connection(url, settings.timeout_s, settings.concurrency, settings.max_attempts, headers)


def bearer(settings: QualitySettings) -> dict[str, str]:
    """The key of the settings as OpenAI and most others take it."""
    return {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"} if settings.api_key else {}


def index_of(dataset: Dataset) -> dict[str, Any]:
    """The dataset's keys in the words of AnyKey's GET /info."""
    modalities: Counter[str] = Counter()
    pools: Counter[str] = Counter()
    for entry in dataset.corpus():
        modalities[entry.modality] += 1
        pools.update(entry.pools)
    counts = {"modalities": dict(modalities), "pools": dict(pools)}
    return {"version": None, "num_keys": modalities.total(), **counts}
