"""Training and `anykey-bench from-pairs` see the same pairs in the same files, though they share no code.

Rows that are one half of a pair are training's alone: the benchmark asks for one half by the other, and refuses them.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import InvalidRowError as BenchmarkRowError
from benchmark.errors import PairsError
from benchmark.pair_files import expand as benchmark_expand
from benchmark.pair_files import read_photos
from tests.drawn_pairs import expand, write_tar
from training.errors import InvalidPairsError, InvalidRowError
from training.sources import open_pairs

ROWS = [
    {"captions": ["one", " two\r\n", "", "one"]},
    {"caption": "one", "text": "two"},
    {"text": "one"},
    {"captions": [], "caption": "one"},
    {"captions": [" "], "caption": "one"},
    {"captions": "one"},
    {"captions": "\u2028one\u2028two\x85 "},
    {"captions": [1]},
    {"captions": {"a": "b"}},
    {"caption": None},
    {},
    [],
    "one",
    None,
]
HALF = "a half"
TEXTS = [b"one\ntwo\n", b"one\r\n\r\n two ", b"one\x0btwo\xe2\x80\xa8three", b" \n", b"", b"\xff", b"\xef\xbb\xbfone"]


def as_training_reads(*names: str) -> list[tuple[object, ...]]:
    pairs = open_pairs(names)
    found: list[tuple[object, ...]] = []
    for position in range(len(pairs)):
        try:
            pair = pairs[position]
            if pair.image is None or not pair.captions:
                found.append((pair.where, HALF))
                continue
            image = pair.image if isinstance(pair.image, bytes) else pair.image.read_bytes()
            found.append((pair.name, pair.captions, image))
        except InvalidRowError as error:
            found.append((error.where, error.reason))
    return found


def assert_alike(path: str) -> None:
    """Both read the same; of a half, the benchmark says that the other half is missing."""
    training, benchmark = as_training_reads(path), as_the_benchmark_reads(path)
    assert len(training) == len(benchmark)
    for ours, theirs in zip(training, benchmark, strict=True):
        if ours[1] == HALF:
            assert theirs[0] == ours[0]
            assert str(theirs[1]).startswith(("expected 'image'", "expected an image", "expected an object with"))
        else:
            assert theirs == ours


def as_the_benchmark_reads(*names: str) -> list[tuple[object, ...]]:
    return [
        (row.where, row.reason) if isinstance(row, BenchmarkRowError) else (row.name, row.captions, row.data)
        for row in read_photos(benchmark_expand(names))
    ]


def outcome(expanded: Callable[[list[str]], list[Path]], names: list[str]) -> list[Path] | str:
    """The files, or why there are none."""
    try:
        return expanded(names)
    except (InvalidPairsError, PairsError) as error:
        return str(error)


def json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def test_captions_of_shards(tmp_path: Path) -> None:
    members = []
    for number, row in enumerate(ROWS):
        members += [(f"j{number}.jpg", b"%d" % number), (f"j{number}.json", json_bytes(row))]
    for number, text in enumerate(TEXTS):
        members += [(f"t{number}.PNG", b"%d" % number), (f"t{number}.txt", text)]
    path = str(
        write_tar(tmp_path / "a.tar", [*members, ("x.jpg", b""), ("x.json", b"{"), ("y.jpg", b""), ("y.json", b"")])
    )
    assert_alike(path)
    assert ("t0", ("one", "two"), b"0") in as_training_reads(path)
    assert ("j2", ("one",), b"2") in as_training_reads(path)


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "b.jpg", "b.txt", "a.txt"],
        ["a.webp", "a.png", "a.jpeg", "a.jpg", "a.txt", "a.json"],
        ["a.txt", "b.jpg", "c.cls"],
        ["v.2/a.b.jpg", "v.2/a.txt", "v.2/c.JPG", "v.2/c.TXT"],
        ["a.jpg", "a.txt", "a.jpg"],
        ["./a.jpg", "./a.txt", "b/c/a.jpg", "b/c/a.txt"],
        ["._a.jpg", "b/._a.jpg", "b/.DS_Store", "README", "b/README", "a.jpg", "a.txt", ".txt", "a..jpg"],
        ["a/.x/b.jpg", "a/.x/b.txt"],
    ],
)
def test_members_of_shards(tmp_path: Path, names: list[str]) -> None:
    members = [(name, json_bytes({"text": f"{name} {i}"})) for i, name in enumerate(names)]
    path = str(write_tar(tmp_path / "a.tar", members))
    assert_alike(path)


def test_rows_of_manifests(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"1")
    objects = [row for row in ROWS if isinstance(row, dict)]
    rows: list[object] = [{"image": "photos/1.jpg", **row} for row in objects]
    rows += [
        {"image": "photos/1.jpg", "name": "a", "text": "x"},
        {"image": str(tmp_path / "photos/1.jpg"), "text": "x"},
    ]
    rows += [
        {"text": "x"},
        {"image": 3, "text": "x"},
        {"image": "", "text": "x"},
        {"image": None, "text": "x"},
        [1],
        "x",
    ]
    lines = [
        "",
        *(json.dumps(row, ensure_ascii=False) for row in rows),
        "  ",
        "{",
        '{"image": "photos/1.jpg", "text": "x"}\r',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert_alike(str(path))


@pytest.mark.parametrize(
    "names",
    [
        ["a/0.tar"],
        ["{a,b}/{0..1}.tar"],
        ["{b,a}/?.tar", "a/0.tar"],
        ["*/0.tar"],
        ["?/[01].tar"],
        ["a/x[1].tar"],
        ["a/*"],
        ["*/none.tar"],
        ["a/{0..2}.tar"],
        ["a/{0.tar"],
        ["a/*older"],
        ["**/0.tar"],
    ],
)
def test_names_and_patterns(tmp_path: Path, names: list[str]) -> None:
    for name in ("a/0.tar", "a/1.tar", "a/x[1].tar", "b/0.tar", "b/1.tar", "a/folder/0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    given = [f"{tmp_path}/{name}" for name in names]
    assert outcome(benchmark_expand, given) == outcome(expand, given)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.tar", b"no tar"), ("a.tar", b"x" * 1024), ("a.tar", b""), ("a.jsonl", b"\xff"), ("a.zip", b"")],
)
def test_files_that_cannot_be_read_end_both_with_the_same_first_words(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidPairsError) as training:
        as_training_reads(str(tmp_path / name))
    with pytest.raises(PairsError) as benchmark:
        as_the_benchmark_reads(str(tmp_path / name))
    assert str(tmp_path / name) in str(training.value)
    assert str(benchmark.value).split(": ")[0] == str(training.value).split(": ")[0]
