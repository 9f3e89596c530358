"""The command `anykey-bench quality`: every query of a dataset to a live service, and what its answers score."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from anykey.benchmark.client import Answer, SearchClient
from anykey.benchmark.errors import DatasetError, EndpointMismatchError
from anykey.benchmark.mbeir import TASK_NAMES, Candidate, Dataset, Query, Task
from anykey.benchmark.report import Report, forget_report, table, write_report
from anykey.benchmark.runs import write_run
from anykey.benchmark.scoring import NDCG_K, PoolKind, TaskResult, score
from anykey.benchmark.settings import QualitySettings
from anykey.program.progress import progress
from anykey.program.settings import plain_console
from anykey.sources.mbeir import format_string

MODALITY_NAMES = {(True, False): "text", (False, True): "image", (True, True): "image,text"}


@dataclass(frozen=True)
class Round:
    """One task against one pool: what is sent and what it is judged by.

    Attributes:
        task: The task.
        pool: "local" or "global".
        num_keys: Keys in the pool, as the service's index counts them.
        queries: The queries to send.
        qrels: Their judgements.
        allowed: Keys an answer may hold, or None where any will do (the global pool).
        references: Query image to its key in the pool, where it is to be excluded.
    """

    task: Task
    pool: PoolKind
    num_keys: int
    queries: Sequence[Query]
    qrels: Mapping[str, Mapping[str, int]]
    allowed: frozenset[str] | None
    references: Mapping[Path, str] = field(default_factory=dict)


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
    out = plain_console()
    if not out.is_terminal:
        out.width = 110
    out.print(table(report), highlight=True, soft_wrap=False)
    for warning in report.warnings:
        plain_console(stderr=True).print(Text.assemble(("warning:", "yellow"), f" {warning}"))
    out.print(f"Details, latencies and run files: {settings.output}")
    return 0


async def measure(settings: QualitySettings) -> Report:
    """Sends every query and scores the answers; the run files are written on the way.

    Raises:
        DatasetError: As for `run`.
        EndpointError: As for `run`.
    """
    dataset = Dataset(settings.dataset, settings.split)
    tasks = chosen_tasks(dataset.tasks(), settings.tasks)
    depth = max([*settings.cutoffs, NDCG_K])
    async with SearchClient(settings.url, settings.timeout_s, settings.concurrency, settings.max_attempts) as client:
        await client.wait_until_ready(settings.ready_timeout_s)
        info = await client.info()
        check_endpoint(info, tasks, settings.pools, depth, settings.url)
        warnings = size_warnings(info, dataset) if "global" in settings.pools else []
        forget_report(settings.output)
        results: list[TaskResult] = []
        for task in tasks:
            for planned in rounds(dataset, task, info, settings, warnings):
                answers = await ask_all(client, planned, dataset, settings, depth, _versions(info))
                result = score(task, planned.pool, planned.num_keys, answers, planned.qrels, settings.cutoffs)
                _write_run(settings.output, result, answers, depth)
                results.append(result)
    return Report.of(settings, info, results, warnings, depth)


def chosen_tasks(tasks: list[Task], wanted: Sequence[str]) -> list[Task]:
    """The tasks whose number or name is wanted; all when nothing is.

    Raises:
        DatasetError: a wanted task does not exist.
    """
    chosen = []
    for task in tasks:
        names = {str(task.number), task.name, task.name.removeprefix("mbeir_")}
        if not wanted or names & set(wanted):
            chosen.append(task)
    known = {name for task in tasks for name in (str(task.number), task.name, task.name.removeprefix("mbeir_"))}
    if unknown := [name for name in wanted if name not in known]:
        available = ", ".join(task.name.removeprefix("mbeir_") for task in tasks)
        raise DatasetError(f"the dataset has no task '{unknown[0]}', it has: {available}")
    return chosen


def check_endpoint(info: Mapping[str, Any], tasks: Sequence[Task], pools: Sequence[str], depth: int, url: str) -> None:
    """Makes sure the service can answer at all, before the first query.

    Raises:
        EndpointMismatchError: a pool is not in the index, or so many hits may not be asked for.
    """
    served: Mapping[str, int] = info["index"].get("pools") or {}
    missing = [task.pool for task in tasks if task.pool not in served]
    if missing and "local" in pools:
        raise EndpointMismatchError(
            f"the index at {url} has no pool '{missing[0]}' ({len(missing)} pools missing); it has: "
            f"{', '.join(sorted(served)) or 'none'}. Index the dataset's cand_pool/local, or give --pools global"
        )
    max_k = info.get("limits", {}).get("max_k", depth)
    if depth > max_k:
        raise EndpointMismatchError(
            f"the service at {url} gives at most {max_k} hits, {depth} are needed: lower --cutoffs"
        )


def size_warnings(info: Mapping[str, Any], dataset: Dataset) -> list[str]:
    """A note where the whole corpus is not as large as the dataset's global pool, if the dataset has that file."""
    expected, indexed = dataset.global_size(), info["index"].get("num_keys")
    if expected is None or expected == indexed:
        return []
    return [f"global pool: {indexed} keys in the index, {expected} in the dataset"]


def rounds(
    dataset: Dataset, task: Task, info: Mapping[str, Any], settings: QualitySettings, warnings: list[str]
) -> list[Round]:
    """What to do for one task; notes in `warnings` where index and dataset differ in size.

    Raises:
        DatasetError: the task's files are wrong, or a query has no judgements.
    """
    queries = dataset.queries(task)
    qrels = dataset.qrels(task)
    if unjudged := [query.qid for query in queries if query.qid not in qrels]:
        raise DatasetError(f"{task.name}: {len(unjudged)} queries have no qrels, the first is {unjudged[0]}")
    if unasked := sorted(qrels.keys() - {query.qid for query in queries}):
        raise DatasetError(f"{task.name}: {len(unasked)} queries of the qrels have no query, the first is {unasked[0]}")
    queries = queries[: settings.limit]
    qrels = {query.qid: qrels[query.qid] for query in queries}
    needs_pool = "local" in settings.pools or settings.exclude_reference
    candidates = dataset.pool(task) if needs_pool else []
    references = _references(candidates) if settings.exclude_reference else {}
    planned = []
    for pool in dict.fromkeys(settings.pools):
        index = info["index"]
        num_keys = index["pools"][task.pool] if pool == "local" else index["num_keys"]
        allowed = frozenset(candidate.did for candidate in candidates) if pool == "local" else None
        if allowed is not None and len(allowed) != num_keys:
            warnings.append(f"pool {task.pool}: {num_keys} keys in the index, {len(allowed)} in the dataset")
        planned.append(Round(task, pool, num_keys, queries, qrels, allowed, references))
    return planned


async def ask_all(
    client: SearchClient,
    planned: Round,
    dataset: Dataset,
    settings: QualitySettings,
    depth: int,
    versions: tuple[str | None, str],
) -> dict[str, Answer]:
    """Every query's answer, in the order of the queries.

    Raises:
        EndpointError: the first query that failed, by name; the others are given up.
    """
    answers: dict[str, Answer] = {}
    prompts = dataset.instructions() if settings.instructions else {}

    async def ask(query: Query) -> None:
        name = f"{query.qid} of {planned.task.name} ({planned.pool} pool)"
        answer = await client.search(name, body_of(query, planned, settings, depth, prompts))
        _check_answer(name, answer, planned, versions)
        answers[query.qid] = answer
        advance()

    async def ask_next() -> None:
        for query in pending:
            await ask(query)

    pending = iter(planned.queries)  # shared: a query's image is read only when its turn comes
    title = f"{planned.task.name.removeprefix('mbeir_')} {planned.pool}"
    with progress(plain_console(stderr=True), title, len(planned.queries)) as advance:
        workers = [asyncio.create_task(ask_next()) for _ in range(settings.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return {query.qid: answers[query.qid] for query in planned.queries}


def body_of(
    query: Query, planned: Round, settings: QualitySettings, depth: int, prompts: Mapping[str, str]
) -> dict[str, Any]:
    """The JSON body of POST /search for one query.

    Raises:
        DatasetError: instructions are wanted and the dataset has none for this kind of query.
    """
    body: dict[str, Any] = {"k": depth}
    text = format_string(query.text)
    if settings.instructions:
        text = format_string(f"{format_string(_prompt(query, planned.task, prompts))} {query.text or ''}")
    if text:
        body["text"] = text
    if query.image is not None:
        body["image"] = base64.b64encode(query.image.read_bytes()).decode("ascii")
    if planned.pool == "local":
        body["pool"] = planned.task.pool
    if settings.text_weight is not None:
        body["text_weight"] = settings.text_weight
    if query.image is not None and query.image in planned.references:
        body["exclude"] = [planned.references[query.image]]
    return body


def _prompt(query: Query, task: Task, prompts: Mapping[str, str]) -> str:
    """The instruction M-BEIR gives this kind of query; the task number tells the modality looked for."""
    wanted = TASK_NAMES[task.number].split(" -> ")[1]
    has = MODALITY_NAMES[query.text is not None, query.image is not None]
    key = f"{query.qid.split(':')[0]}, {has}, {wanted}"
    if key not in prompts:
        raise DatasetError(f"instructions/query_instructions.tsv has no prompt for '{key}'")
    return prompts[key]


def _check_answer(name: str, answer: Answer, planned: Round, versions: tuple[str | None, str]) -> None:
    """Refuses an answer from outside the pool, or from another index or model than the run began with."""
    if answer.versions != versions:
        raise EndpointMismatchError(
            f"query {name}: answered by index and model {answer.versions}, the run began with {versions}"
        )
    if planned.allowed is not None:
        foreign = [key for key in answer.keys if key not in planned.allowed]
        if foreign:
            raise EndpointMismatchError(f"query {name}: key '{foreign[0]}' is not in pool {planned.task.pool}")


def _references(candidates: Sequence[Candidate]) -> dict[Path, str]:
    """Image file to key, for keys that are an image and nothing else."""
    return {c.image: c.did for c in candidates if c.image is not None and c.modality == "image"}


def _versions(info: Mapping[str, Any]) -> tuple[str | None, str]:
    """Index version, if there is one, and model fingerprint as GET /info has them."""
    version = info["index"].get("version")
    return None if version is None else str(version), str(info.get("model", {}).get("fingerprint"))


def _write_run(output: Path, result: TaskResult, answers: Mapping[str, Answer], depth: int) -> None:
    """Writes the round's run file under its UniIR-style name."""
    folder = output / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    name = run_name(result.task, result.pool, depth)
    write_run(folder / f"{name}_run.txt", {query: answer.hits for query, answer in answers.items()}, name)


def run_name(task: Task, pool: PoolKind, depth: int) -> str:
    """Name of a run, in UniIR's pattern: "single" is the local pool, "union" the global one."""
    return f"{task.name}_{'single' if pool == 'local' else 'union'}_pool_{task.split}_k{depth}"
