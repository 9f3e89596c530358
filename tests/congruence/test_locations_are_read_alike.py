"""What one command reads, the others read: an index, training and the benchmark, from one list of locations.

Each place holds the same pairs, as shards, as a table or as a folder; it is a folder of this machine, a web server or
the file system that fsspec keeps in memory.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from anykey.benchmark.errors import PairsError
from anykey.benchmark.pair_files import Photo, read_photos
from anykey.index.jobs.corpus import find_files, read_corpus
from anykey.sources.columns import Columns
from anykey.sources.corpus.entry import CorpusEntry
from anykey.sources.errors import InvalidRowError, SourceError
from anykey.sources.files.images import ImageStamp, read_image
from anykey.sources.pairs import open_pairs
from tests.corpora import read, write_tar
from tests.factories import build_settings, build_with, image_bytes
from tests.site import Site

Found = list[tuple[str, str]]  # digest of the image, and the text
ROWS = [(f"picture {number}".encode(), f"text {number}") for number in range(6)]
ALL = [(hashlib.sha256(image).hexdigest(), text) for image, text in ROWS]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "anykey" / "data"


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """The pairs in every form."""
    folder = tmp_path / "origin"
    (folder / "photos" / "sub").mkdir(parents=True)
    (folder / "tables").mkdir()
    for number, (image, text) in enumerate(ROWS):
        path = folder / "photos" / "sub" / f"{number}.jpg"
        path.write_bytes(image)
        path.with_suffix(".txt").write_text(text)
        (folder / "tables" / path.name).write_bytes(image)
    for half in range(2):
        members = [
            member
            for number, (image, text) in [*enumerate(ROWS)][3 * half : 3 * half + 3]
            for member in ((f"{number}.jpg", image), (f"{number}.txt", text.encode()))
        ]
        write_tar(folder / f"{half:03}.tar", members)
    rows = [{"key": str(number), "image": image, "text": text} for number, (image, text) in enumerate(ROWS)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs.parquet")
    lines = [f'{{"file_name": "{number}.jpg", "text": "{text}"}}' for number, (_, text) in enumerate(ROWS)]
    (folder / "tables" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


Place = Callable[[str], str]


@pytest.fixture(params=["disk", "http", "memory"])
def place(request: pytest.FixtureRequest, origin: Path, site: Site, memory: fsspec.AbstractFileSystem) -> Place:
    """Where the pairs are: what makes a location of a name."""
    if request.param == "disk":
        return lambda name: f"{origin}/{name}"
    for path in origin.rglob("*.*"):
        name = path.relative_to(origin).as_posix()
        if path.is_file():
            site.pages[f"/{name}"], site.tags[f"/{name}"] = path.read_bytes(), '"1"'
            memory.pipe(f"/set/{name}", path.read_bytes())
    if request.param == "http":
        return lambda name: site.url(f"/{name}")
    return lambda name: f"memory://set/{name}"


def in_an_index(name: str) -> Found:
    rows = read(name)
    assert all(isinstance(row, CorpusEntry) for row in rows)
    return [(_digest_at(row.images[0]), row.text or "") for row in rows if isinstance(row, CorpusEntry)]


def _digest_at(image: str | ImageStamp) -> str:
    location = image.location if isinstance(image, ImageStamp) else image
    return hashlib.sha256(read_image(location)).hexdigest()


def in_training(name: str) -> Found:
    pairs = open_pairs([name])
    found = []
    for position in range(len(pairs)):
        image = pairs[position].image
        data = image.read_bytes() if isinstance(image, Path) else image or b""
        found.append((hashlib.sha256(data).hexdigest(), *pairs[position].captions))
    return found  # type: ignore[return-value]


def in_the_benchmark(name: str) -> Found:
    photos = list(read_photos([name], Columns()))
    assert all(isinstance(photo, Photo) for photo in photos)
    return [(hashlib.sha256(p.data).hexdigest(), *p.captions) for p in photos if isinstance(p, Photo)]  # type: ignore[misc]


@pytest.mark.parametrize("name", ["{000..001}.tar", "{000,001}.tar", "pairs.parquet"])
def test_files_are_read_alike_wherever_they_are(place: Place, name: str) -> None:
    assert in_an_index(place(name)) == in_training(place(name)) == in_the_benchmark(place(name)) == ALL


@pytest.mark.parametrize("name", ["*.tar", "00?.tar", "00[01].tar", "photos", "tables", "pho{tos,}"])
def test_patterns_and_folders_are_read_alike_where_files_can_be_listed(place: Place, name: str) -> None:
    location = place(name)
    if location.startswith("http"):
        for refuse in (find_files, open_pairs):
            with pytest.raises(SourceError, match="does not exist"):
                refuse([location])
        return
    if name == "pho{tos,}":  # of which one is not there
        for refuse in (find_files, open_pairs):
            with pytest.raises(SourceError, match=r"pho does not exist"):
                refuse([location])
        return
    assert in_an_index(location) == in_training(location) == in_the_benchmark(location) == ALL


@pytest.mark.parametrize("name", ["000.tar", "pairs.parquet"])
def test_files_of_servers_that_serve_them_whole_are_read_alike(
    origin: Path, site: Site, cache: Path, name: str
) -> None:
    site.pages[f"/{name}"], site.has_ranges = (origin / name).read_bytes(), False
    expected = ALL[:3] if name == "000.tar" else ALL
    for read_all in (in_an_index, in_training, in_the_benchmark):
        assert read_all(site.url(f"/{name}")) == expected
    assert len([path for path in cache.iterdir() if path.suffix != ".lock"]) == 1


def test_what_a_command_writes_is_read_alike(origin: Path, tmp_path: Path) -> None:
    name = f"pipe:cat {origin}/{{000..001}}.tar; echo x >> {tmp_path}/runs"
    assert in_an_index(name) == in_training(name) == in_the_benchmark(name) == ALL
    assert (tmp_path / "runs").read_text() == "x\nx\n"
    assert read(name)[0].where == f"pipe:cat {origin}/000.tar; echo x >> {tmp_path}/runs: sample '0'"


def test_what_a_command_writes_is_indexed_with_its_images_and_not_referred_to(tmp_path: Path, cache: Path) -> None:
    members = [(f"{number}.png", image_bytes((number * 40, 0, 0))) for number in range(3)]
    name = f"pipe:cat {write_tar(tmp_path / 'a.tar', members)}"

    first = build_with([name], tmp_path / "index")
    (copy,) = cache.glob("*.tar")
    copy.unlink()  # as it goes when others need its room
    second = build_with([name], tmp_path / "index")
    (referring,) = read_corpus(build_settings([name], tmp_path / "other", images="reference"))

    assert (first.num_embedded, second.num_embedded, second.is_new) == (3, 0, False)
    reasons = [row.reason for row in referring if isinstance(row, InvalidRowError)]
    assert len(reasons) == 3
    assert all("name its place with --image-root" in reason for reason in reasons)


def test_a_file_that_breaks_off_is_read_on_alike(origin: Path, site: Site) -> None:
    rows = [{"key": str(n), "image": image * 50_000, "text": text} for n, (image, text) in enumerate(ROWS)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), origin / "large.parquet", compression="none")
    site.pages["/large.parquet"] = (origin / "large.parquet").read_bytes()
    site.tags["/large.parquet"] = '"1"'
    expected = in_training(str(origin / "large.parquet"))
    for read_all in (in_an_index, in_training):
        site.num_failures, site.num_breaks, site.breaks_after = 2, 1, 300_000
        assert read_all(site.url("/large.parquet")) == expected


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("nowhere/a.tar", "nowhere/a.tar does not exist"),
        ("nowhere/*.tar", r"nowhere/\*.tar does not exist"),
        ("memory://nowhere/a.tar", "memory://nowhere/a.tar does not exist"),
        ("memory://nowhere/*.tar", r"memory://nowhere/\*.tar does not exist"),
        ("http://SITE/nowhere.tar?s=hidden", "http://SITE/nowhere.tar does not exist"),
        ("http://SITE/broken/a.tar?s=hidden", "cannot read http://SITE/broken/a.tar: the server answered 503"),
        ("nosuch://u:hidden@host/a.tar", "cannot read nosuch://host/a.tar: Protocol not known: nosuch"),
        ("pipe:echo http://u:hidden@host/a?s=hidden >&2; exit 3", "cannot read pipe:echo http://host/a .*ended with 3"),
        ("{a.tar", r"unbalanced braces in '\{a.tar'"),
    ],
)
def test_what_cannot_be_read_is_told_alike(
    site: Site, memory: fsspec.AbstractFileSystem, location: str, reason: str
) -> None:
    host = urlsplit(site.url("/")).netloc
    said = []
    for refuse in (find_files, open_pairs, lambda names: list(read_photos(names, Columns()))):
        with pytest.raises((SourceError, PairsError), match=reason.replace("SITE", host)) as caught:
            refuse([location.replace("SITE", host)])
        said.append(str(caught.value))
    assert len(set(said)) == 1
    assert "hidden" not in said[0]
