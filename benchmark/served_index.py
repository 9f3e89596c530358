"""Brings the index that the endpoint serves to a dataset's keys, or makes sure that it has exactly them."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from anykey.benchmark.corpus import write_rows
from anykey.benchmark.dataset import Dataset
from anykey.benchmark.endpoints.choice import Endpoint
from anykey.benchmark.errors import EndpointMismatchError, IndexBuildError
from anykey.program.progress import progress
from anykey.program.settings import plain_console

POLL_S = 0.5
MODULE = "anykey.index"  # run as its own program: the benchmark imports no index


def build(dataset: Dataset, index: str, settings: Sequence[str], output: Path) -> str:
    """Builds the index from the dataset's keys, as `anykey-index build` does; what is there already stays.

    Args:
        dataset: Whose keys.
        index: The index directory.
        settings: Settings of the command, such as "checkpoint=runs/best".
        output: Directory for the corpus file.

    Returns:
        The version that the index has now.

    Raises:
        DatasetError: the dataset is wrong.
        IndexBuildError: the command failed; it said why.
    """
    corpus = output / "corpus.jsonl"
    write_rows(dataset.corpus(), corpus, dataset.name)
    flags = [f"--{setting.replace('_', '-', setting.partition('=')[0].count('_'))}" for setting in settings]
    _run("build", "--corpus", str(corpus), "--output", index, *flags, show=True)
    info = json.loads(_run("info", "--index", index, "--as-json"))
    return str(info["manifest"]["version"])


async def wait_for_version(client: Endpoint, version: str, timeout_s: float) -> dict[str, Any]:
    """What GET /info says once the endpoint answers with this version of its index.

    Raises:
        EndpointMismatchError: it did not within `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        info = await client.info()
        served = info["index"].get("version")
        if served == version:
            return info
        if time.monotonic() >= deadline_s:
            raise EndpointMismatchError(
                f"the endpoint at {client.url} still serves version {served} of its index after {timeout_s:g} s, not "
                f"{version}: does it serve the index that --index names?"
            )
        await asyncio.sleep(POLL_S)


async def check_keys(client: Endpoint, dataset: Dataset, info: dict[str, Any], item: Mapping[str, Any]) -> None:
    """Asks for every key of the dataset, many at a time, by searches within them.

    Args:
        client: Whom to ask.
        dataset: Whose keys.
        info: What GET /info said.
        item: What is searched for, of a kind that the model embeds: some fields of a body of POST /search.

    Raises:
        EndpointMismatchError: the index lacks a key, or has others.
    """
    expected = dataset.num_keys()
    served = info["index"]["num_keys"]
    if served != expected:
        raise EndpointMismatchError(f"the index at {client.url} has {served} keys, the dataset {expected}")
    at_once = min(info["limits"]["max_k"], info["limits"]["max_within"])
    with progress(plain_console(stderr=True), "checking keys", expected) as advance:
        for keys in _batches(dataset, at_once):
            asked = {**item, "within": keys, "k": len(keys), "exact": True}
            answer = await client.search("of the check of keys", asked)
            if missing := set(keys).difference(answer.keys):
                raise EndpointMismatchError(
                    f"the index at {client.url} lacks {len(missing)} of these {len(keys)} keys of the dataset, such as "
                    f"'{min(missing)}'"
                )
            advance(len(keys))


def _batches(dataset: Dataset, size: int) -> Iterator[list[str]]:
    keys = (entry.key for entry in dataset.corpus())
    while batch := list(islice(keys, size)):
        yield batch


def _run(*arguments: str, show: bool = False) -> str:
    """What a command of `anykey-index` prints; shown as it comes where wanted, on the standard error.

    Raises:
        IndexBuildError: its exit code is not 0.
    """
    command = [sys.executable, "-m", MODULE, *arguments]
    done = subprocess.run(command, stdout=sys.stderr if show else subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise IndexBuildError(f"anykey-index {arguments[0]} ended with exit code {done.returncode}")
    return done.stdout or ""
