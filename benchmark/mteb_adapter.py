"""mteb as referee: its `SearchProtocol` over POST /search, so that its own code scores what a running service finds.

`pip install 'anykey[mteb]'`, then `mteb.evaluate(SearchModel("http://127.0.0.1:8000"), task)`. The service's index must
hold the task's corpus, which `write_corpus` writes. mteb's protocol: `mteb/models/models_protocols.py`.
"""

import asyncio
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anykey.benchmark.answers import AnswerBook
from anykey.benchmark.client import Answer, SearchClient
from anykey.benchmark.corpus import write_rows
from anykey.benchmark.dataset import Entry, Query, Task, modality_of
from anykey.benchmark.errors import DatasetError, EndpointMismatchError
from anykey.benchmark.quality import Round, ask_all, check_endpoint, versions_of
from anykey.benchmark.runs import strictly_falling
from anykey.benchmark.settings import QualitySettings

UNKNOWN = ("audio", "video")  # columns that no query of the service can have
Table = Any  # a `datasets.Dataset`, whose package need not be here to read this


class SearchModel:
    """A running service as a model that mteb searches with.

    mteb puts equal scores in an order of its own, by their keys. It is therefore given the smallest lower score in
    the place of each tie, so that it scores the ranking that the service gave.
    """

    def __init__(self, url: str, pool: str | None = None, exact: bool = False, **settings: Any) -> None:
        """Nothing is sent yet.

        Args:
            url: The service's address.
            pool: The index's pool that holds the task's corpus; None where all of the index is the corpus.
            exact: Whether every key is compared.
            **settings: Those of `anykey-bench quality` that say how queries are sent: `concurrency`, `timeout_s`,
                `ready_timeout_s`, `max_attempts`, `text_weight`.
        """
        self._settings = QualitySettings(url=url, **settings)
        self._pool, self._exact = pool, exact
        self._keys: frozenset[str] = frozenset()

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb prints of the model, a `ModelMeta`."""
        from mteb.models import ModelMeta

        return ModelMeta.create_empty(overwrites={"name": "anykey/search", "modalities": ["text", "image"]})

    def index(self, corpus: Table, **facts: Any) -> None:
        """Remembers which keys the service must have; it indexes nothing.

        Args:
            corpus: The task's corpus, with a column `id`.
            **facts: What else mteb tells, which changes nothing.
        """
        self._keys = frozenset(corpus["id"])

    def search(
        self,
        queries: Table,
        *,
        task_metadata: Any,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **facts: Any,
    ) -> dict[str, dict[str, float]]:
        """Sends every query; gives query to key to score.

        Args:
            queries: The task's queries, with the columns `id` and `text` or `image` or both.
            task_metadata: The task's, whose name errors have.
            top_k: How many hits mteb looks at; no more than there are keys are asked for.
            top_ranked: The only keys that a query may find, of tasks that rank such again.
            **facts: What else mteb tells, which changes nothing.

        Raises:
            DatasetError: a query has neither text nor image, or audio, a video or a conversation.
            EndpointError: the service cannot be reached, does not hold the corpus, or a query failed; by name.
        """
        asked = list(_queries(queries, top_ranked or {}))
        task = Task(task_metadata.name, task_metadata.name, "mteb", self._pool, "ndcg@10")
        round = Round(task.name, task, self._exact, asked, self._keys, min(top_k, len(self._keys)))
        with ThreadPoolExecutor(1) as thread:  # in a notebook, this one has a loop already
            answers = thread.submit(asyncio.run, self._answers(round)).result()
        return {query: _scores(answer) for query, answer in answers.items()}

    async def _answers(self, round: Round) -> dict[str, Answer]:
        given = self._settings
        patience = (given.timeout_s, given.concurrency, given.max_attempts)
        async with SearchClient(given.url, *patience, given.api_key) as client:
            await client.wait_until_ready(given.ready_timeout_s)
            info = await client.info()
            check_endpoint(info, [round], given.url)
            index = info["index"]
            served = index.get("num_keys") if self._pool is None else index["pools"][self._pool]
            if served != len(self._keys):
                raise EndpointMismatchError(
                    f"{round.name}: {served} keys in the index, {len(self._keys)} in mteb's corpus"
                )
            with TemporaryDirectory() as folder, AnswerBook(Path(folder), {}) as book:
                return await ask_all(client, round, given, versions_of(info), book)


def write_corpus(corpus: Table, output: Path, pool: str | None = None) -> int:
    """Writes a task's corpus as a JSONL file that `anykey-index` reads, with its images beside it.

    Args:
        corpus: The corpus, with the columns `id` and `text` or `image` or both, and perhaps `title`.
        output: The file.
        pool: A pool for all of its keys.

    Returns:
        How many keys it has.

    Raises:
        DatasetError: a row has neither text nor image, or audio or a video, or a key comes twice.
    """
    return write_rows(_entries(corpus, () if pool is None else (pool,)), output)


def _entries(corpus: Table, pools: tuple[str, ...]) -> Iterator[Entry]:
    for number in range(len(corpus)):
        row = corpus[number]
        text = " ".join(filter(None, (row.get("title"), row.get("text")))).strip()  # as mteb gives a document to models
        entry = Entry(row["id"], text or None, _images(corpus, number, row), pools=pools, place=f"row {number}")
        _check(entry, row)
        yield entry


def _queries(queries: Table, top_ranked: Mapping[str, Sequence[str]]) -> Iterator[Query]:
    for number in range(len(queries)):
        row = queries[number]
        name, text = row["id"], row.get("text")
        if not isinstance(text, str | None):
            raise DatasetError(f"query {name}: a conversation, which cannot be searched with")
        text = " ".join(filter(None, (text, row.get("instruction")))).strip()  # as mteb gives a query to models
        within = tuple(top_ranked[name]) if name in top_ranked else None
        query = Query(name, text or None, _images(queries, number, row), within=within)
        _check(query, row)
        yield query


def _check(item: Entry | Query, row: Mapping[str, Any]) -> None:
    """Makes sure that the item is something, and that nothing of its row is left out of it."""
    if unknown := [column for column in UNKNOWN if row.get(column) is not None]:
        raise DatasetError(f"{row['id']}: it has {unknown[0]}, which cannot be searched")
    try:
        modality_of(item.text, item.images)
    except DatasetError as error:
        raise DatasetError(f"{row['id']}: {error}") from error


def _images(table: Table, number: int, row: Mapping[str, Any]) -> tuple[Callable[[], bytes], ...]:
    """The row's image, encoded when it is called for."""
    return () if row.get("image") is None else (partial(_png, table, number),)


def _png(table: Table, number: int) -> bytes:
    """The pixels that mteb gives to models, without loss."""
    data = io.BytesIO()
    table[number]["image"].convert("RGB").save(data, "PNG")
    return data.getvalue()


def _scores(answer: Answer) -> dict[str, float]:
    return dict(zip(answer.keys, strictly_falling([hit.score for hit in answer.hits]), strict=True))
