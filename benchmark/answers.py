"""The answers of a run, kept as they come, so that a stopped run goes on where it was."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from anykey.benchmark.client import Answer
from anykey.benchmark.dataset import Hit
from anykey.program.files import replace_file

FOLDER = "answers"
RUN = "run.json"
REPORT = "results.json"


class Page:
    """The answers of one round: `answers/{run}.jsonl`, a line for each query in the order of the answers.

    Attributes:
        answers: Those that were there, by query.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("r+b")
        self.answers, end = _read(self._file)
        self._file.truncate(end)
        self._file.seek(end)

    def keep(self, query: str, answer: Answer) -> None:
        """Writes one answer, so that no kill of this process loses it."""
        row = {
            "query": query,
            "hits": [[hit.key, hit.score, hit.modality] for hit in answer.hits],
            "latency_s": answer.latency_s,
            "timings_ms": answer.timings_ms,
            "cached": answer.cached,
            "num_retries": answer.num_retries,
            "versions": answer.versions,
        }
        self._file.write(f"{json.dumps(row)}\n".encode())
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class AnswerBook:
    """All pages of a run; a context manager.

    A run that ended left its results beside them, and one with other parameters, or of another index or model, has
    other facts: both are begun anew.

    Raises:
        OSError: what is there cannot be read; nothing of it is removed.
    """

    def __init__(self, output: Path, facts: Mapping[str, Any]) -> None:
        self._folder = output / FOLDER
        self._pages: list[Page] = []
        known = json.loads(json.dumps(facts))
        if (output / REPORT).exists() or _facts(self._folder / RUN) != known:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._folder / RUN, f"{json.dumps(known, indent=2)}\n".encode())

    def __enter__(self) -> "AnswerBook":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for page in self._pages:
            page.close()

    def page(self, name: str) -> Page:
        """The page of one round."""
        page = Page(self._folder / f"{name}.jsonl")
        self._pages.append(page)
        return page


def _facts(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _read(file: BinaryIO) -> tuple[dict[str, Answer], int]:
    """The answers of a page up to its end, or to a line that a kill cut off, and where that is."""
    found: dict[str, Answer] = {}
    end = 0
    for line in file:
        try:
            query, answer = _parsed(line)
        except (ValueError, KeyError, TypeError):
            break
        found[query] = answer
        end += len(line)
    return found, end


def _parsed(line: bytes) -> tuple[str, Answer]:
    if not line.endswith(b"\n"):
        raise ValueError("the line is cut off")
    row = json.loads(line)
    query, hits, (version, fingerprint) = row.pop("query"), row.pop("hits"), row.pop("versions")
    return query, Answer(hits=tuple(Hit(*hit) for hit in hits), versions=(version, fingerprint), **row)
