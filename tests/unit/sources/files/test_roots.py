"""No location that roots let through leads out of them, however it is written."""

import os
import posixpath
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anykey.sources.files.images import ImageReader
from anykey.sources.files.roots import ImageRoots, OutsideRootsError, root_of
from tests.site import serve

PARTS = ["..", ".", "", "a", "b", "out", "up", "1.png", "secret.png", "...", "~", "\0", "%2e%2e", "-other", "\u2025"]
URL_PARTS = [*PARTS, "%2e", "%252e%252e", "%2F..%2F", "..%5c..", "\\..\\", ";..", "?/../", "#/../", "photos", "//"]
HOSTS = ["host.example", "HOST.example", "inner.example", "host.example:80", "host.example:81", "u:p@host.example"]
HOSTS += ["host.example@inner.example", "host.example.inner.example", "inner.example/host.example", "inner.example#"]
SCHEMES = ["http", "https", "HTTP", "file", "s3", "simplecache::http", "zip", "local", "data", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `in` with links out of it, beside a folder with a name that begins alike."""
    outer = tmp_path_factory.mktemp("outer")
    for name in ("in/a/b/1.png", "in/1.png", "in-other/1.png", "secret.png"):
        (outer / name).parent.mkdir(parents=True, exist_ok=True)
        (outer / name).write_bytes(b"x")
    (outer / "in" / "out").symlink_to(outer)
    (outer / "in" / "a" / "up").symlink_to("../../secret.png")
    return outer


def is_let_through(roots: ImageRoots, location: str) -> bool:
    try:
        roots.require(location)
    except OutsideRootsError:
        return False
    return True


@settings(max_examples=500, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=6), wrap=st.sampled_from(["{}", "tar:{}!512+1!x", "file://{}"]))
def test_paths_that_are_let_through_are_inside(folder: Path, parts: list[str], wrap: str) -> None:
    inside = folder / "in"
    path = f"{inside}{'/'.join(['', *parts])}"
    if is_let_through(ImageRoots([str(inside)]), wrap.format(path)):
        real = Path(os.path.realpath(path))
        assert real == inside or inside in real.parents


def url_of(scheme: str, host: str, parts: list[str]) -> str:
    return f"{scheme}://{host}/photos/{'/'.join(parts)}"


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(SCHEMES), st.sampled_from(HOSTS), st.lists(st.sampled_from(URL_PARTS), max_size=5))
def test_urls_that_are_let_through_are_inside(scheme: str, host: str, parts: list[str]) -> None:
    url = url_of(scheme, host, parts)
    if is_let_through(ImageRoots([root_of("http://host.example/photos")]), url):
        split = urlsplit(url)
        assert (split.scheme, split.hostname, split.port or 80) == ("http", "host.example", 80)
        path = split.path
        for _ in range(3):
            path = unquote(path).replace("\\", "/")
            assert f"{posixpath.normpath(path)}/".startswith("/photos/")


@given(
    st.text() | st.lists(st.sampled_from([*URL_PARTS, "://", "tar:", "!", "0+1", "parquet:", "[", "http"])).map("".join)
)
def test_nothing_else_is_let_through_or_trips_over(text: str) -> None:
    assert not is_let_through(ImageRoots(["/nowhere", "http://host.example/photos"]), text)


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: path.mkdir(), lambda path: None])
def test_what_is_no_file_is_not_read_and_nothing_waits_for_it(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(OSError, match=r"no file|No such file"):
        ImageRoots([str(tmp_path)]).read(str(tmp_path / "x"))


def test_what_is_no_file_is_not_kept_open(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    num_open = len(os.listdir("/dev/fd"))
    for _ in range(5):
        with pytest.raises(OSError, match="it is no file"):
            ImageRoots([str(tmp_path)]).read(str(tmp_path / "x"))
    assert len(os.listdir("/dev/fd")) == num_open


@pytest.mark.parametrize(
    ("root", "inside", "beside"),
    [
        (
            "abfss://public@acct.example/photos",
            "abfss://public@acct.example/photos/1",
            "abfss://x@acct.example/photos/1",
        ),
        ("abfss://public@acct.example/photos", "abfss://public@acct.example/photos/1", "abfss://acct.example/photos/1"),
        ("github://org:repo@main/p", "github://org:repo@main/p/1", "github://org:other@main/p/1"),
        ("github://org:repo@main/p", "github://org:repo@main/p/1", "github://repo@main/p/1"),
        ("oci://bucket@space/p?x=1", "oci://bucket@space/p/1", "oci://other@space/p/1"),
        ("sftp://me:secret@host/p", "sftp://me:other@host/p/1", "sftp://host@other/p/1"),
    ],
)
def test_container_or_repository_before_the_host_is_part_of_the_place(root: str, inside: str, beside: str) -> None:
    roots = ImageRoots([root_of(root)])
    assert is_let_through(roots, inside)
    assert not is_let_through(roots, beside)
    assert "secret" not in root_of(root)


def test_what_fails_for_a_passing_reason_is_tried_again_by_a_build_and_nothing_else() -> None:
    with serve() as site, ImageReader(ImageRoots([site.url("/p")])) as reader:
        site.pages["/p/1.png"] = b"picture"
        site.num_failures = 1
        assert reader.read(site.url("/p/1.png")) == b"picture"
        with pytest.raises(FileNotFoundError):
            reader.read(site.url("/p/2.png"))
        with pytest.raises(OutsideRootsError):
            reader.read(site.url("/q/1.png"))
        assert [path for path, _ in site.requests] == ["/p/1.png", "/p/1.png", "/p/2.png"]
