"""The command `anykey-bench judgements`: queries of a service's log and what users thought of hits, as a dataset.

Equal queries are one topic, whoever asked them. Of several judgements of one hit of one answer the last counts, for a
user may think again; those of different answers to the same query are votes, and a key is relevant that has more votes
for it than against it.
"""

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.load.traffic import AT, BY_HASH, LOGGED, images_beside
from anykey.benchmark.settings import JudgementsSettings
from anykey.program.settings import plain_console

QUERIES, FEEDBACK = "queries.jsonl", "feedback.jsonl"
TOPIC_FIELDS = frozenset({"text", "image", "instruction"})  # of a body, which a topic can say
ITEM_FIELDS = TOPIC_FIELDS | {"text_weight"}


@dataclass
class _Topic:
    """Equal queries: what they ask, and the votes for and against keys."""

    body: dict[str, Any]
    num_asked: int = 0
    votes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def grades(self, min_votes: int) -> dict[str, int]:
        """1 for each key with more votes for it than against it, else 0; of keys that were judged often enough."""
        enough = {key: votes for key, votes in self.votes.items() if votes.total() >= min_votes}
        return {key: int(votes["good"] > votes["bad"]) for key, votes in enough.items()}


def run(settings: JudgementsSettings) -> int:
    """The command.

    Returns:
        The exit code, 0.

    Raises:
        DatasetError: the log is missing or wrong, nothing in it was judged, or the output is there already.
        OSError: a file cannot be read or written.
    """
    if settings.output.exists():
        raise DatasetError(f"{settings.output} is there already; name another directory")
    if settings.corpus is not None and not settings.corpus.is_file():
        raise DatasetError(f"corpus {settings.corpus}: there is no such file")
    verdicts = _verdicts(settings.log)
    topics, left_out = _topics(settings, verdicts)
    judged = {id: topic for id, topic in topics.items() if any(topic.grades(settings.min_votes).values())}
    if not judged:
        raise DatasetError(f"{settings.log} has no query that a key was judged good for: {_reasons(left_out)}")
    _write(settings, judged)
    _tell(settings, judged, left_out)
    return 0


def _verdicts(folder: Path) -> dict[str, dict[str, str]]:
    """The last judgement of each key by query id."""
    verdicts: dict[str, dict[str, str]] = {}
    for path, line, row in _rows(folder, FEEDBACK):
        try:
            verdicts.setdefault(row["query_id"], {})[row["key"]] = row["judgement"]
        except KeyError as error:
            raise DatasetFormatError(path, line, f"expected {error.args[0]}") from error
    return verdicts


def _topics(
    settings: JudgementsSettings, verdicts: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, _Topic], Counter[str]]:
    """Topics by their ids, and why judged queries are left out."""
    topics: dict[str, _Topic] = {}
    left_out: Counter[str] = Counter()
    found: set[str] = set()
    for path, line, row in _rows(settings.log, QUERIES):
        logged = row.get(LOGGED)
        if not isinstance(logged, dict) or "query_id" not in logged:
            raise DatasetFormatError(path, line, f"expected {LOGGED} with a query_id: is this a query log?")
        given = verdicts.get(logged["query_id"])
        if given is None or (settings.index is not None and logged.get("index") != settings.index):
            continue
        found.add(logged["query_id"])
        body = {name: value for name, value in row.items() if name in ITEM_FIELDS}
        if reason := _why_left_out(body, settings.log):
            left_out[reason] += 1
            continue
        topic = topics.setdefault(_id_of(body), _Topic(body))
        topic.num_asked += 1
        for key, verdict in given.items():
            if len(key.split()) == 1:
                topic.votes[key][verdict] += 1
            else:
                left_out["judge a key with a blank in its name, which qrels cannot have"] += 1
    if unknown := len(verdicts.keys() - found):
        left_out["are not in the log, or are of another index"] += unknown
    return topics, left_out


def _why_left_out(body: Mapping[str, Any], folder: Path) -> str | None:
    """Why a query is no topic; `None` where it is one."""
    if "text" not in body and "image" not in body:
        return "ask with a key, a vector, words or several parts, which topics cannot say"
    if any(not place.is_file() for place in images_beside(body, folder)):
        return "have images that the log did not keep (query_log_image_bytes)"
    return None


def _write(settings: JudgementsSettings, topics: Mapping[str, _Topic]) -> None:
    aside = settings.output.with_name(f".{settings.output.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with (aside / "topics.jsonl").open("w", encoding="utf-8") as file, (aside / "qrels.txt").open("w") as qrels:
        for id, topic in topics.items():
            for place in images_beside(topic.body, settings.log):
                (aside / "images").mkdir(exist_ok=True)
                shutil.copyfile(place, aside / "images" / place.name)
            said = {name: value for name, value in topic.body.items() if name in TOPIC_FIELDS}
            if "image" in said:
                said["image"] = _below_images(said["image"])
            file.write(json.dumps({"id": id, **said}, ensure_ascii=False) + "\n")
            for key, grade in topic.grades(settings.min_votes).items():
                qrels.write(f"{id}\t0\t{key}\t{grade}\n")
    if settings.corpus is not None:
        shutil.copyfile(settings.corpus, aside / f"corpus{''.join(settings.corpus.suffixes)}")
    aside.rename(settings.output)


def _tell(settings: JudgementsSettings, topics: Mapping[str, _Topic], left_out: Counter[str]) -> None:
    out = plain_console()
    num_good = sum(sum(topic.grades(settings.min_votes).values()) for topic in topics.values())
    num_asked = sum(topic.num_asked for topic in topics.values())
    out.print(
        f"{len(topics)} topics of {num_asked} judged queries, {num_good} relevant keys: {settings.output}",
        soft_wrap=True,
    )
    for reason, number in left_out.items():
        out.print(f"{number} judged queries {reason}", soft_wrap=True)
    if settings.corpus is None:
        out.print(
            f"Put the corpus beside them, such as {settings.output}/corpus.jsonl, before you measure", soft_wrap=True
        )


def _rows(folder: Path, name: str) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """File, line and content of each line of a log, the oldest file first; a line that a crash cut is passed over."""
    paths = sorted(folder.glob(f"{name}.*"), key=lambda path: -int(path.suffix[1:])) if folder.is_dir() else []
    paths += [folder / name] if (folder / name).is_file() else []
    if not paths and name == QUERIES:
        raise DatasetError(f"{folder} has no {name}: it is no query log")
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line, text in enumerate(file, start=1):
                try:
                    row = json.loads(text)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    yield path, line, row


def _id_of(body: Mapping[str, Any]) -> str:
    """A topic's id, by what it asks."""
    asked = json.dumps({**body, AT: None}, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _below_images(image: Any) -> Any:
    if isinstance(image, list):
        return [_below_images(each) for each in image]
    return f"images/{image.removeprefix(BY_HASH)}"


def _reasons(left_out: Counter[str]) -> str:
    told = "; ".join(f"{number} {reason}" for reason, number in left_out.items())
    return told or "nobody gave feedback to what it holds"
