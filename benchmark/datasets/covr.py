"""WebVid-CoVR as its owners publish it: a video and an edit find another video (Ventura et al., arXiv 2308.14746).

The csv files are those of huggingface.co/datasets/lucas-ventura/WebVid-CoVR; columns are read by name. A query is the
middle frame of `pth1` and the edit; the keys are the targets of all rows, `pth2`, as several frames each. The owners'
evaluator removes another row's reference where the csv is not sorted by `pth2`; here the order does not matter.
"""

import ast
import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from anykey.benchmark.dataset import Card, Dataset, Entry, Hit, Hub, Published, Query, Task
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.videos import find_video, middle_frame, sampled_frames

REMOVED, KEPT = "targets", "targets and reference"
CUTOFFS = (1, 5, 10, 50)
FILES = {"test": "webvid8m-covr_test.csv", "val": "webvid8m-covr_val.csv", "train": "webvid2m-covr_train.csv"}
CSV_FOLDERS = ("annotation/webvid-covr", "annotation", ".")
VIDEO_FOLDERS = ("datasets/WebVid", "WebVid", ".")  # below the root; then the part of WebVid, then one of `KINDS`
PARTS = {"test": "8M", "val": "8M", "train": "2M"}  # of WebVid
KINDS = ("frames", "train", "video", "videos", ".")
MAX_WORDS = 30  # of an edit
TEMPERATURE = 0.1  # of the weights of frames
REQUIRED = ("pth1", "pth2", "edit")
UNIQUE = "test"  # whose targets differ, which CoVR's evaluator asserts of it


@dataclass(frozen=True)
class Row:
    """One row of a csv file.

    Attributes:
        path: The file.
        line: Its last line, from 1.
        reference: The query's own video.
        target: The video that it looks for.
        edit: What shall be changed.
        caption: What the target shows; empty where the file does not say.
        scores: How much each of the target's frames counts, before `frame_weights`.
    """

    path: Path
    line: int
    reference: str
    target: str
    edit: str
    caption: str
    scores: tuple[float, ...]

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.path}:{self.line}"


class WebVidCovr(Dataset):
    """A directory with WebVid-CoVR's csv files and the videos of WebVid, or their frames."""

    name = "WebVid-CoVR"
    splits = ("test", "val", "train")
    card = Card(
        measures="finding the video that a text makes of another video",
        size="2,556 queries, as many videos (test)",
        licence="the files' and the videos' own terms; WebVid has been withdrawn by its owner",
        published="https://huggingface.co/datasets/lucas-ventura/WebVid-CoVR",
        hub=(Hub("lucas-ventura/WebVid-CoVR", (FILES["test"], FILES["val"]), "annotation/webvid-covr"),),
        by_hand=(
            "put the videos that you have, or their frames, below DIR/WebVid/8M, as docs/datasets.md says: WebVid has "
            "been withdrawn by its owner",
        ),
    )
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "pooling": ("mean", "middle", "query"),
        "missing": ("error", "skip"),
    }

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """By the csv file of any split."""
        return any((root / folder / name).is_file() for folder in CSV_FOLDERS for name in FILES.values())

    def tasks(self) -> list[Task]:
        """The queries among all targets without their own video, and with it."""
        return [
            Task(
                name="webvid_covr",
                title="covr video,text -> video",
                candidates=candidates,
                pool=self._pool,
                headline="success@1",
                key_modality="image",
                cutoffs=CUTOFFS,
                excludes_references=candidates == REMOVED,
                aliases=("covr",),
            )
            for candidates in (REMOVED, KEPT)
        ]

    def queries(self, task: Task) -> list[Query]:
        """The rows in file order; a reference that is also a target is the query's own key.

        Raises:
            DatasetError: videos are missing, and the option `missing` is "error"; or PyAV is.
            DatasetFormatError: the file or a row is wrong.
        """
        incomplete = [row for row in self._rows if not self._is_complete(row)]
        if incomplete and self.options["missing"] == "error":
            raise DatasetError(
                f"{incomplete[0].place}: video '{incomplete[0].reference}' or '{incomplete[0].target}' is not below "
                f"{self.root}, and so for {len(incomplete)} of {len(self._rows)} rows; --options missing=skip leaves "
                "them out"
            )
        return [self._query(row) for row in self._rows if self._is_complete(row)]

    def corpus(self) -> Iterator[Entry]:
        """Every target once, in file order, as the option `pooling` says: all sampled frames, or the middle one.

        Raises:
            DatasetError: a video is missing and the option `missing` is "error", or cannot be decoded.
            DatasetFormatError: the file or a row is wrong.
        """
        for key, row in self._targets.items():
            video = self._video(key)
            if video is None and self.options["missing"] == "error":
                raise DatasetError(f"{row.place}: video '{key}' is not below {self.root}")
            if video is not None:
                yield self._entry(row, video)

    def keys(self, pool: str) -> frozenset[str]:
        """The keys of the pool, for which no video is decoded.

        Raises:
            DatasetFormatError: the file or a row is wrong.
        """
        return frozenset(filter(self._video, self._targets)) if pool == self._pool else frozenset()

    def num_keys(self) -> int:
        """How many targets have a video.

        Raises:
            DatasetFormatError: the file or a row is wrong.
        """
        return len(self.keys(self._pool))

    def warnings(self, tasks: Sequence[Task]) -> list[str]:
        """How many keys and queries are left out since their videos are missing."""
        keys = len(self._targets) - self.num_keys()
        rows = sum(not self._is_complete(row) for row in self._rows)
        if not rows:
            return []
        left_out = f"{keys} of {len(self._targets)} keys and {rows} of {len(self._rows)} queries"
        return [f"{left_out} are left out, whose videos are missing"]

    def published(self, task: Task, queries: Sequence[Query], rankings: Sequence[Sequence[Hit]]) -> list[Published]:
        """CoVR's means over cut-offs."""
        found = []
        for name, cutoffs in (("meanR3", CUTOFFS[:3]), ("meanR4", CUTOFFS)):
            rule = f"mean of success@{', '.join(map(str, cutoffs))}, as CoVR writes it"
            values = [
                sum(any(hit.key in query.relevant for hit in hits[:k]) for k in cutoffs) / len(cutoffs)
                for query, hits in zip(queries, rankings, strict=True)
            ]
            found.append(Published(name, rule, values))
        return found

    @property
    def _pool(self) -> str:
        """Keys of one name differ by how their frames are pooled, so pools do, lest one be taken for another."""
        pooling = self.options["pooling"]
        return f"webvid_covr_{self.split}" + ("" if pooling == "mean" else f"_{pooling}")

    @cached_property
    def _rows(self) -> list[Row]:
        folders = (self.root / folder for folder in CSV_FOLDERS)
        path = next((path for folder in folders if (path := folder / FILES[self.split]).is_file()), None)
        if path is None:
            raise DatasetError(f"{self.root} has no {FILES[self.split]}, neither in {' nor in '.join(CSV_FOLDERS)}")
        rows = read_rows(path)
        if self.split == UNIQUE:
            _refuse_repeated(rows)
        return rows

    @cached_property
    def _targets(self) -> dict[str, Row]:
        """The first row of every target."""
        targets: dict[str, Row] = {}
        for row in self._rows:
            targets.setdefault(row.target, row)
        return targets

    @cached_property
    def _folders(self) -> list[Path]:
        """Where videos may be."""
        part = PARTS[self.split]
        places = [self.root / top / below / kind for top in VIDEO_FOLDERS for below in (part, ".") for kind in KINDS]
        return [place for place in dict.fromkeys(places) if place.is_dir()]

    @cached_property
    def _found(self) -> dict[str, Path | None]:
        return {}

    def _video(self, name: str) -> Path | None:
        if name not in self._found:
            self._found[name] = find_video(self._folders, name)
        return self._found[name]

    def _is_complete(self, row: Row) -> bool:
        return self._video(row.reference) is not None and self._video(row.target) is not None

    def _query(self, row: Row) -> Query:
        video = self._video(row.reference)
        assert video is not None
        return Query(
            f"{row.line}",
            clean_edit(row.edit) or None,
            (middle_frame(video),),
            {row.target: 1},
            references=(row.reference,) if row.reference in self._targets else (),
        )

    def _entry(self, row: Row, video: Path) -> Entry:
        frames = sampled_frames(video)
        pooling = self.options["pooling"]
        return Entry(
            row.target,
            images=(frames[len(frames) // 2],) if pooling == "middle" else frames,
            image_weights=frame_weights(row.scores, len(frames)) if pooling == "query" else None,
            pools=(self._pool,),
            metadata={"caption": row.caption} if row.caption else {},
            place=row.place,
        )


def read_rows(path: Path) -> list[Row]:
    """The rows of a csv file.

    Raises:
        DatasetFormatError: a column is missing, or a row is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [name for name in REQUIRED if name not in (reader.fieldnames or ())]:
                raise DatasetFormatError(path, 1, f"there is no column '{missing[0]}'")
            return [_row(path, reader.line_num, cells) for cells in reader]
    except UnicodeDecodeError as error:
        raise DatasetFormatError(path, None, f"not UTF-8: {error}") from error
    except csv.Error as error:
        raise DatasetFormatError(path, None, f"no csv: {error}") from error


def frame_weights(scores: Sequence[float], num: int) -> tuple[float, ...]:
    """What each of a key's frames counts for: CoVR's pooling "query", a softmax of the scores over 0.1.

    Args:
        scores: How well each frame fits the row's text; none, or another number of them than frames, weigh all alike.
        num: Number of frames.

    Returns:
        Weights that add up to 1.

    >>> frame_weights([], 4)
    (0.25, 0.25, 0.25, 0.25)
    """
    if len(scores) != num:
        return (1 / num,) * num
    powers = [math.exp((score - max(scores)) / TEMPERATURE) for score in scores]
    return tuple(power / sum(powers) for power in powers)


def _row(path: Path, line: int, cells: Mapping[str | None, str | list[str] | None]) -> Row:
    """One row.

    Raises:
        DatasetFormatError: it has other cells than the header, a blank name, or scores that are no list of numbers.
    """
    if None in cells or None in cells.values():
        raise DatasetFormatError(path, line, "the row has other cells than the header")
    texts = {str(name): str(cell).strip() for name, cell in cells.items()}
    for name in ("pth1", "pth2"):
        if not texts[name]:
            raise DatasetFormatError(path, line, f"{name} is blank")
    scores = _scores(path, line, texts["scores"]) if "scores" in texts else ()
    return Row(path, line, texts["pth1"], texts["pth2"], texts["edit"], texts.get("txt2", ""), scores)


def _refuse_repeated(rows: Sequence[Row]) -> None:
    """Makes sure that no video is looked for twice, as in the files of other splits."""
    known = set[str]()
    for row in rows:
        if row.target in known:
            said = f"target '{row.target}' comes a second time, as in no test file: is this the file of another split?"
            raise DatasetFormatError(row.path, row.line, said)
        known.add(row.target)


def _scores(path: Path, line: int, cell: str) -> tuple[float, ...]:
    """The literal list of numbers in a cell."""
    try:
        values = ast.literal_eval(cell)
        assert isinstance(values, list)
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    except (ValueError, SyntaxError, AssertionError, RecursionError, MemoryError, OverflowError):
        shown = cell if len(cell) <= 60 else f"{cell[:57]}..."
        raise DatasetFormatError(path, line, f"scores must be a list of numbers, got '{shown}'") from None
    return tuple(float(value) for value in values)


def clean_edit(text: str) -> str:
    """Lower case, without `.!"()*#:;~`, single blanks, at most 30 words: CoVR's `pre_caption`.

    >>> clean_edit('Make it a  "dog"!')
    'make it a dog'
    """
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", text.lower()).split()[:MAX_WORDS])
