"""The command `anykey-bench quality`: every query of a dataset to a live service, and what its answers score."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from rich.text import Text

from anykey.benchmark.answers import AnswerBook
from anykey.benchmark.client import Answer
from anykey.benchmark.connection import at_once
from anykey.benchmark.dataset import Dataset, Query, Task, image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.endpoints.choice import Endpoint, endpoint_of
from anykey.benchmark.errors import DatasetError, EndpointMismatchError
from anykey.benchmark.losses import losses_of
from anykey.benchmark.page.page import write_page
from anykey.benchmark.page.worst import worst_queries
from anykey.benchmark.report import PAGE, Report, forget_report, summary_lines, tables, write_report
from anykey.benchmark.runs import run_name, write_run
from anykey.benchmark.scoring import TaskResult, headline_if_ties_lost, hits_needed, score
from anykey.benchmark.served_index import build, check_keys, wait_for_version
from anykey.benchmark.settings import QualitySettings
from anykey.program.progress import progress
from anykey.program.settings import plain_console


@dataclass(frozen=True)
class Round:
    """One task, searched in one way.

    Attributes:
        name: What its files are called.
        task: The task.
        exact: Whether every key is compared, instead of those that the index's structure leads to.
        queries: The queries to send.
        allowed: The pool's keys, beyond which no answer may go; None for the whole corpus.
        depth: How many hits are asked for.
    """

    name: str
    task: Task
    exact: bool
    queries: Sequence[Query]
    allowed: frozenset[str] | None
    depth: int


class Wording(Protocol):
    """Settings that say how a query is put; `QualitySettings` describes each."""

    @property
    def instructions(self) -> Literal["none", "text", "all", "field"]:
        """What becomes of the dataset's instructions."""

    @property
    def text_weight(self) -> float | None:
        """Share of the text in fused queries."""

    @property
    def exclude_reference(self) -> bool | None:
        """Whether the query's own image stays out of the hits."""


def run(settings: QualitySettings) -> int:
    """The command: measures, writes the report, prints the table.

    Returns:
        The exit code, 0: every query was answered and scored.

    Raises:
        DatasetError: the dataset is wrong or a named task is not in it.
        EndpointError: the service cannot be reached, lacks a pool, or a query failed.
    """
    report = asyncio.run(measure(settings))
    write_report(settings.output, report)
    write_page(settings.output / PAGE, report)
    out = plain_console()
    if not out.is_terminal:
        out.width = 120
    for table in tables(report):
        out.print(table, highlight=True, soft_wrap=False)
    for line in summary_lines(report):
        out.print(line, soft_wrap=True)
    for warning in report.warnings:
        plain_console(stderr=True).print(Text.assemble(("warning:", "yellow"), f" {warning}"))
    for name in report.files:
        out.print(f"For the benchmark's own tools: {settings.output / name}", soft_wrap=True)
    out.print(f"With the worst queries, latencies and run files: {settings.output / PAGE}", soft_wrap=True)
    return 0


async def measure(settings: QualitySettings) -> Report:
    """Sends every query and scores the answers; answers are kept as they come, and run files are written on the way.

    Raises:
        DatasetError: As for `run`.
        EndpointError: As for `run`.
    """
    dataset = open_dataset(settings.dataset, settings.format, settings.split, settings.options)
    rounds = plan(dataset, settings)
    endpoint = endpoint_of(settings, dataset)
    version = build(dataset, settings.index, settings.index_settings, settings.output) if settings.index else None
    async with endpoint as client:
        info = await _info_when_ready(client, settings, version)
        check_endpoint(info, rounds, settings.url)
        if settings.check_keys:
            await check_keys(client, dataset, info, item_of(rounds[0].queries[0], settings))
        warnings = [*size_warnings(info, dataset, rounds), *dataset.warnings([round.task for round in rounds])]
        warnings += unjudged_warnings(rounds)
        with AnswerBook(settings.output, facts_of_run(settings, info)) as book:
            forget_report(settings.output)
            await client.prepare({round.task: round.queries for round in rounds})
            results = [await _measured(client, round, dataset, settings, info, book) for round in rounds]
    judged = [result for result, _ in results if result is not None]
    rankings = {
        round.task: {q: a.hits for q, a in answers.items()} for round, (_, answers) in zip(rounds, results, strict=True)
    }
    scores = {result.task: {name: n.value for name, n in result.numbers.items()} for result in judged}
    files = dataset.extra_files(rankings, scores)
    for name, text in files.items():
        (settings.output / name).write_text(text, encoding="utf-8", newline="")
    measured = [
        (result, round.queries, answers)
        for round, (result, answers) in zip(rounds, results, strict=True)
        if result is not None
    ]
    report = Report.of(settings, dataset, info, judged, [*warnings, *tie_warnings(measured)], list(files))
    worst, unread = worst_queries(measured, dataset, settings.worst)
    losses = losses_of([(result, answers) for result, _, answers in measured])
    return replace(report, losses=losses, worst=worst, unread=unread)


async def _info_when_ready(client: Endpoint, settings: QualitySettings, version: str | None) -> dict[str, Any]:
    """What GET /info says once the service is ready, and serves this version of its index where one is awaited."""
    await client.wait_until_ready(settings.ready_timeout_s)
    if version is None:
        return await client.info()
    return await wait_for_version(client, version, settings.ready_timeout_s)


def plan(dataset: Dataset, settings: QualitySettings) -> list[Round]:
    """What to send, all of it read and checked.

    Raises:
        DatasetError: the dataset's files are wrong, or a wanted task or kind of candidates is not in it.
    """
    rounds = []
    for task in chosen_tasks(dataset.tasks(), settings.tasks, settings.pools):
        queries = dataset.queries(task)[: settings.limit]
        if not queries:
            raise DatasetError(f"{task.name} has no queries")
        is_judged(queries)
        allowed = None if task.pool is None else dataset.keys(task.pool)
        depth = hits_needed(task, settings.cutoffs, queries)
        # exact last: the files for the benchmark's own tools are of the last
        for exact in sorted({kind == "exact" for kind in settings.search}):
            name = run_name(task, dataset.split, depth, exact)
            rounds.append(Round(name, task, exact, queries, allowed, depth))
    return rounds


def chosen_tasks(tasks: Sequence[Task], wanted: Sequence[str], candidates: Sequence[str] = ()) -> list[Task]:
    """The tasks whose name or alias is wanted, among the wanted kinds of candidates; all where nothing is.

    Raises:
        DatasetError: a wanted task, or kind of candidates, does not exist.
    """
    known = {name for task in tasks for name in (task.name, *task.aliases)}
    if unknown := [name for name in wanted if name not in known]:
        available = ", ".join(dict.fromkeys(task.aliases[-1] if task.aliases else task.name for task in tasks))
        raise DatasetError(f"the dataset has no task '{unknown[0]}', it has: {available}")
    kinds = list(dict.fromkeys(task.candidates for task in tasks))
    if unknown := [kind for kind in candidates if kind not in kinds]:
        raise DatasetError(f"the dataset has no pools '{unknown[0]}', it has: {', '.join(kinds)}")
    ordered = sorted(tasks, key=lambda task: candidates.index(task.candidates) if task.candidates in candidates else 0)
    return [
        task
        for task in ordered
        if (not wanted or {task.name, *task.aliases} & set(wanted))
        and (not candidates or task.candidates in candidates)
    ]


def check_endpoint(info: Mapping[str, Any], rounds: Sequence[Round], url: str) -> None:
    """Makes sure the service can answer at all, before the first query.

    Raises:
        EndpointMismatchError: a pool is not in the index, or so many hits or keys to search within may not be asked
            for.
    """
    served: Mapping[str, int] = info["index"].get("pools") or {}
    missing = list(dict.fromkeys(r.task.pool for r in rounds if r.task.pool is not None and r.task.pool not in served))
    if missing:
        raise EndpointMismatchError(
            f"the index at {url} has no pool '{missing[0]}' ({len(missing)} pools missing); it has: "
            f"{', '.join(sorted(served)) or 'none'}. Index the dataset's corpus with its pools, or choose other --pools"
        )
    limits = info.get("limits", {})
    depth = max(round.depth for round in rounds)
    if depth > limits.get("max_k", depth):
        raise EndpointMismatchError(
            f"the service at {url} gives at most {limits['max_k']} hits, {depth} are needed: lower --cutoffs, or give "
            f"the service a larger max_k"
        )
    widest = max(len(query.within or ()) for round in rounds for query in round.queries)
    if widest > limits.get("max_within", widest):
        raise EndpointMismatchError(
            f"the service at {url} searches within at most {limits['max_within']} keys, {widest} are needed: give it a "
            f"larger max_within"
        )


def size_warnings(info: Mapping[str, Any], dataset: Dataset, rounds: Sequence[Round]) -> list[str]:
    """Notes where what is searched is not as large as in the dataset."""
    index, warnings = info["index"], []
    if any(round.task.pool is None for round in rounds) and index.get("num_keys") != dataset.num_keys():
        warnings.append(f"corpus: {index.get('num_keys')} keys in the index, {dataset.num_keys()} in the dataset")
    for round in rounds:
        served = index["pools"][round.task.pool] if round.task.pool is not None else 0
        if round.allowed is not None and len(round.allowed) != served:
            warnings.append(f"pool {round.task.pool}: {served} keys in the index, {len(round.allowed)} in the dataset")
    return list(dict.fromkeys(warnings))


def num_candidates(round: Round, index: Mapping[str, Any]) -> int:
    """How many keys one query is searched among; where they differ from query to query, the most."""
    own = [len(query.within) for query in round.queries if query.within is not None]
    if len(own) == len(round.queries):
        return max(own)
    return int(index["num_keys"] if round.task.pool is None else index["pools"][round.task.pool])


def unjudged_warnings(rounds: Sequence[Round]) -> list[str]:
    """Notes on tasks whose answers the owners keep to themselves."""
    return [
        f"{round.name}: {len(round.queries)} queries were sent and nothing is scored, since the dataset's owners keep "
        "the answers to themselves"
        for round in rounds
        if not is_judged(round.queries)
    ]


def tie_warnings(measured: Sequence[tuple[TaskResult, Sequence[Query], Mapping[str, Answer]]]) -> list[str]:
    """A note where headlines hang on the order of hits that score alike, as far as a table shows it."""
    found = []
    for result, queries, answers in measured:
        harsh, value = headline_if_ties_lost(result.task, queries, answers), result.headline.value
        if round(value - harsh, 3) > 0:
            way = ", every key compared" if result.exact else ""
            found.append((value - harsh, f"{result.task.title} ({result.task.candidates}{way})", result, harsh))
    if not found:
        return []
    _, name, result, harsh = max(found, key=lambda each: each[0])
    return [
        f"{len(found)} of {len(measured)} headlines hang on the order of keys that score alike, most that of {name}: "
        f"{result.task.headline} is {result.headline.value:.3f}, and {harsh:.3f} with relevant keys behind the others "
        "of their score. Does the model give different keys one vector?"
    ]


def is_judged(queries: Sequence[Query]) -> bool:
    """Whether the dataset says which keys answer the queries; of some alone it may not.

    Raises:
        DatasetError: it says so of some queries and not of others.
    """
    without = [query.id for query in queries if not query.relevant]
    if 0 < len(without) < len(queries):
        raise DatasetError(f"{len(without)} of {len(queries)} queries have no answer, the first is {without[0]}")
    return not without


def facts_of_run(settings: QualitySettings, info: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the answers: a stopped run may go on only where all of it is the same."""
    how = {
        "index",
        "index_settings",
        "check_keys",
        "config",
        "output",
        "concurrency",
        "timeout_s",
        "ready_timeout_s",
        "max_attempts",
        "pools",
        "tasks",
        "cutoffs",
        "worst",
        "api_key",
        "embed_batch",
        "vectors",
    }
    parameters = settings.model_dump(mode="json", exclude=how)
    return {**parameters, "dataset": str(settings.dataset.resolve()), "versions": versions_of(info)}


async def _measured(
    client: Endpoint,
    round: Round,
    dataset: Dataset,
    settings: QualitySettings,
    info: Mapping[str, Any],
    book: AnswerBook,
) -> tuple[TaskResult | None, dict[str, Answer]]:
    """One round's answers and what they score; None where the owners keep the judgements to themselves."""
    answers = await ask_all(client, round, settings, versions_of(info), book)
    task = round.task
    write_run(settings.output / "runs" / f"{round.name}_run.txt", {q: a.hits for q, a in answers.items()}, round.name)
    if not is_judged(round.queries):
        return None, answers
    num_keys = num_candidates(round, info["index"])
    published = dataset.published(task, round.queries, [answers[query.id].hits for query in round.queries])
    result = score(task, num_keys, round.queries, answers, settings.cutoffs, round.exact, dataset.source_of, published)
    return result, answers


async def ask_all(
    client: Endpoint,
    round: Round,
    settings: QualitySettings,
    versions: tuple[str | None, str],
    book: AnswerBook,
) -> dict[str, Answer]:
    """Every query's answer, in the order of the queries; those that the book has are not asked for again.

    Raises:
        EndpointError: the first query that failed, by name; the others are given up.
    """
    page = book.page(round.name)
    answers = {query.id: page.answers[query.id] for query in round.queries if query.id in page.answers}

    async def ask_next() -> None:
        for query in pending:
            name = f"{query.id} of {round.task.name} ({round.task.candidates})"
            body = await asyncio.to_thread(
                body_of, query, round, settings
            )  # which may read files, or frames of a video
            answer = await client.search(name, body)
            _check_answer(name, answer, round, query, versions)
            page.keep(query.id, answer)
            answers[query.id] = answer
            advance()

    pending = iter(
        [query for query in round.queries if query.id not in answers]
    )  # shared: an image is read in its turn
    title = f"{round.task.title} {round.task.candidates}{' exact' if round.exact else ''}"
    with progress(plain_console(stderr=True), title, len(round.queries) - len(answers)) as advance:
        await at_once(settings.concurrency, ask_next)
    return {query.id: answers[query.id] for query in round.queries}


def body_of(query: Query, round: Round, settings: Wording) -> dict[str, Any]:
    """The JSON body of POST /search for one query.

    Raises:
        DatasetError: instructions are wanted and the dataset has none for this query.
    """
    body: dict[str, Any] = {"k": round.depth, **item_of(query, settings)}
    if round.task.pool is not None:
        body["pool"] = round.task.pool
    if query.within is not None:
        body["within"] = list(query.within)
    excludes = settings.exclude_reference
    if query.references and (round.task.excludes_references if excludes is None else excludes):
        body["exclude"] = list(query.references)
    if round.exact:
        body["exact"] = True
    return body


def item_of(query: Query, settings: Wording) -> dict[str, Any]:
    """What of a body says what is searched for, whatever it is searched among.

    Raises:
        DatasetError: As for `body_of`.
    """
    item: dict[str, Any] = dict(_words(query, settings))
    if query.images:
        images = [base64.b64encode(image_bytes(image)).decode("ascii") for image in query.images]
        item["image"] = images[0] if len(images) == 1 else images
    if settings.text_weight is not None:
        item["text_weight"] = settings.text_weight
    return item


def _words(query: Query, settings: Wording) -> dict[str, str]:
    """The text and the instruction that are sent, by the policy of the settings."""
    policy = settings.instructions
    if policy != "none" and query.instruction is None:
        raise DatasetError(f"query {query.id}: the dataset has no instruction for it, give --instructions none")
    text = query.text
    if policy == "all" or (policy == "text" and text):
        text = query.instructed
    words = {"text": text} if text else {}
    return words | ({"instruction": query.instruction or ""} if policy == "field" else {})


def _check_answer(name: str, answer: Answer, round: Round, query: Query, versions: tuple[str | None, str]) -> None:
    """Refuses an answer from outside the candidates, or from another index or model than the run began with."""
    if answer.versions != versions:
        raise EndpointMismatchError(
            f"query {name}: answered by index and model {answer.versions}, the run began with {versions}"
        )
    allowed = round.allowed if query.within is None else frozenset(query.within)
    if allowed is not None and (foreign := [key for key in answer.keys if key not in allowed]):
        pool = "the corpus" if round.task.pool is None else f"pool {round.task.pool}"
        where = "is none of its candidates" if query.within is not None else f"is not in {pool}"
        raise EndpointMismatchError(f"query {name}: key '{foreign[0]}' {where}")


def versions_of(info: Mapping[str, Any]) -> tuple[str | None, str]:
    """Index version, if there is one, and model fingerprint as GET /info has them."""
    version = info["index"].get("version")
    return None if version is None else str(version), str(info.get("model", {}).get("fingerprint"))
