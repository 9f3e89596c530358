"""Files on this machine, over HTTP and through fsspec: the same answers, and the same kind of error."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anykey.sources.files.fetching import fetch
from anykey.sources.files.files import (
    exists,
    file_state,
    files_below,
    is_folder,
    matches,
    open_file,
    read_file,
    reason_of,
)
from tests.site import Site, serve

BODY = bytes(range(256)) * 40
Place = Callable[[bytes], str]


@pytest.fixture(params=["local", "http", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, site: Site, memory: fsspec.AbstractFileSystem) -> Place:
    """Puts bytes at a location of one of three kinds."""

    def put(data: bytes) -> str:
        if request.param == "local":
            (tmp_path / "f").write_bytes(data)
            return str(tmp_path / "f")
        if request.param == "memory":
            memory.pipe("/f", data)
            return "memory://f"
        site.pages["/f"] = data
        return site.url("/f")

    return put


def test_file_is_read_whole_and_in_parts(place: Place) -> None:
    location = place(BODY)
    assert read_file(location) == BODY
    assert read_file(location, 100, 10) == BODY[100:110]
    assert read_file(location, max_bytes=len(BODY)) == BODY
    with open_file(location) as file:
        assert file.read() == BODY


def test_part_beyond_the_end_is_refused(place: Place) -> None:
    location = place(BODY)
    with pytest.raises(OSError, match=r"expected 20 bytes from byte 10230, got 10"):
        read_file(location, len(BODY) - 10, 20)


def test_more_bytes_than_allowed_are_not_read(place: Place) -> None:
    with pytest.raises(OSError, match="it has more than 10239 bytes"):
        read_file(place(BODY), max_bytes=len(BODY) - 1)


def test_state_has_the_size(place: Place) -> None:
    assert file_state(place(BODY)).size_bytes == len(BODY)
    assert file_state(place(b"")).size_bytes == 0


def test_state_changes_with_the_file(tmp_path: Path, site: Site, memory: fsspec.AbstractFileSystem) -> None:
    site.pages["/f"], site.tags["/f"] = b"one", '"1"'
    memory.pipe("/f", b"one")
    (tmp_path / "f").write_bytes(b"one")
    locations = (str(tmp_path / "f"), site.url("/f"), "memory://f")
    before = [file_state(location) for location in locations]
    assert before == [file_state(location) for location in locations]

    site.tags["/f"] = '"2"'
    memory.pipe("/f", b"two")
    os.utime(tmp_path / "f", ns=(1, 1))

    after = [file_state(location) for location in locations]
    assert all(one.version != two.version for one, two in zip(before, after, strict=True))


def test_page_without_a_tag_has_no_version(site: Site) -> None:
    site.pages["/f"] = BODY
    state = file_state(site.url("/f"))
    assert (state.version, state.has_ranges) == (None, True)
    site.has_ranges = False
    state = file_state(site.url("/f"))
    assert (state.size_bytes, state.has_ranges) == (len(BODY), False)


def test_state_is_learnt_without_the_content(site: Site) -> None:
    site.pages["/f"] = BODY
    file_state(site.url("/f"))
    assert site.requests == [("/f", "bytes=0-0")]


def test_reading_in_order_takes_one_request_and_a_jump_one_more(site: Site) -> None:
    site.pages["/f"] = bytes(6 * 2**20)
    with open_file(site.url("/f")) as file:
        site.requests.clear()
        file.read(100)
        file.seek(1000)
        file.read(2 * 2**20)
        assert [span for _, span in site.requests] == [None]
        file.seek(5 * 2**20)
        file.read(1)
        assert [span for _, span in site.requests] == [None, f"bytes={5 * 2**20}-"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(BODY) + 5), st.integers(-1, 3000)), min_size=1, max_size=6))
def test_remote_file_reads_like_a_local_one(shared_site: Site, steps: list[tuple[int, int]]) -> None:
    shared_site.pages["/f"] = BODY
    with open_file(shared_site.url("/f")) as file:
        for start, size in steps:
            file.seek(start)
            assert file.read(size) == (BODY[start:] if size < 0 else BODY[start : start + size])


@pytest.fixture(scope="module")
def shared_site():  # type: ignore[no-untyped-def]  # noqa: ANN201
    with serve() as server:
        yield server


def test_server_without_ranges_serves_whole_files_only(site: Site) -> None:
    site.pages["/f"], site.has_ranges = BODY, False
    assert read_file(site.url("/f")) == BODY
    with open_file(site.url("/f")) as file:
        assert file.read() == BODY
    with pytest.raises(OSError, match="does not serve parts of files"):
        read_file(site.url("/f"), 1, 2)


def test_file_of_untold_size_is_read_in_order(site: Site) -> None:
    site.pages["/f"], site.has_ranges, site.tells_sizes = BODY, False, False
    with open_file(site.url("/f")) as file:
        assert file.read() == BODY
        assert not file.seekable()


def test_redirects_are_followed(site: Site) -> None:
    site.pages["/f"] = BODY
    assert read_file(site.url("/moved/f?signature=x")) == BODY


def test_cookies_are_not_kept(site: Site) -> None:
    site.pages["/f"], site.cookie = BODY, "who=you; Path=/"
    for _ in range(2):
        file_state(site.url("/f"))
        read_file(site.url("/f"))
        fetch(site.url("/f"), check=print, max_bytes=len(BODY), timeout_s=10)
    assert site.cookies == [None] * 6


@pytest.mark.parametrize(("num_failures", "succeeds"), [(2, True), (3, False)])
def test_passing_failures_are_tried_again_twice(site: Site, num_failures: int, succeeds: bool) -> None:
    site.pages["/f"] = BODY
    for ask in (read_file, file_state):
        site.num_failures = num_failures
        if succeeds:
            ask(site.url("/f"))
        else:
            with pytest.raises(OSError, match="the server answered 503"):
                ask(site.url("/f"))
    assert len(site.requests) == 6


def test_connection_that_is_lost_is_tried_again_and_a_missing_page_is_not(site: Site) -> None:
    site.pages["/f"] = BODY
    for path, num_requests in (("/cut/f", 3), ("/none", 1)):
        site.requests.clear()
        with pytest.raises(OSError, match=r"peer closed connection|404"):
            read_file(site.url(path))
        assert len(site.requests) == num_requests


@pytest.mark.parametrize("has_ranges", [True, False])
@pytest.mark.parametrize("tag", ['"1"', None])
def test_file_that_breaks_off_goes_on_where_it_was(site: Site, has_ranges: bool, tag: str | None) -> None:
    data = bytes(range(256)) * 12_000
    site.pages["/f"], site.has_ranges = data, has_ranges
    site.tags |= {"/f": tag} if tag else {}

    with open_file(site.url("/f")) as file:
        site.num_breaks, site.breaks_after = 2, 1_000_000
        site.requests.clear()
        assert file.read() == data
    starts = [int(span.removeprefix("bytes=").rstrip("-")) if span else 0 for _, span in site.requests]
    assert len(starts) == 3
    assert 0 < starts[1] <= 1_000_000 < starts[2] <= 2_000_000 if has_ranges else not any(starts)


@pytest.mark.parametrize(("changed", "tag"), [(bytes(3_000_001), '"1"'), (b"x" * 3_000_000, '"2"')])
def test_file_that_changed_when_it_broke_off_is_not_pieced_together(site: Site, changed: bytes, tag: str) -> None:
    site.pages["/f"], site.tags["/f"], site.changed = bytes(3_000_000), '"1"', {"/f": changed}
    site.num_breaks, site.breaks_after = 1, 1_000_000
    with open_file(site.url("/f")) as file:
        file.read(1)
        site.tags["/f"] = tag
        with pytest.raises(OSError, match="it changed while it was read"):
            file.read()


def test_server_that_breaks_off_for_ever_is_given_up(site: Site) -> None:
    site.pages["/f"], site.num_breaks, site.breaks_after = bytes(3_000_000), 10**6, 1_000
    with open_file(site.url("/f")) as file, pytest.raises(OSError, match="peer closed connection"):
        file.read()
    assert len(site.requests) < 150


class _FlakyFiles(MemoryFileSystem):
    """Breaks off in the middle of the first read of each file, as a server does, and may have changed the file."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    broken: ClassVar[set[str]] = set()
    changed: ClassVar[dict[str, bytes]] = {}
    closed: ClassVar[set[str]] = set()
    opened: ClassVar[list[io.RawIOBase]] = []
    find = fsspec.AbstractFileSystem.find  # folder by folder, as over SFTP

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.removeprefix('flaky://').strip('/')}".rstrip("/")

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if path in self.closed:
            raise PermissionError(f"no access to {path}")
        return super().ls(path, detail, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        opened = super()._open(path, mode, **options)
        if mode != "rb":
            return opened
        self.opened.append(_FlakyFile(opened, path, self))
        return self.opened[-1]


class _FlakyFile(io.RawIOBase):
    def __init__(self, file: Any, path: str, files: _FlakyFiles) -> None:
        self._file, self._path, self._files = file, path, files

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1, /) -> bytes:
        if self._file.tell() > 1_000_000 and self._path not in self._files.broken:
            self._files.broken.add(self._path)
            if self._path in self._files.changed:
                self._files.pipe(self._path, self._files.changed[self._path])
            raise TimeoutError("read timed out")
        return bytes(self._file.read(size))


@pytest.fixture
def flaky() -> _FlakyFiles:
    fsspec.register_implementation("flaky", _FlakyFiles, clobber=True)
    for memory in (_FlakyFiles.store, _FlakyFiles.broken, _FlakyFiles.changed, _FlakyFiles.closed, _FlakyFiles.opened):
        memory.clear()
    return _FlakyFiles()


def test_file_elsewhere_that_breaks_off_goes_on_where_it_was(flaky: _FlakyFiles) -> None:
    data = bytes(range(256)) * 12_000
    flaky.pipe("/f", data)
    with open_file("flaky://f") as file:
        assert file.read() == data
    assert flaky.broken == {"/f"}
    assert [file.closed for file in flaky.opened] == [True, True]
    assert read_file("flaky://f", 1_500_000, 10) == data[1_500_000:1_500_010]


def test_file_elsewhere_that_changed_when_it_broke_off_is_not_pieced_together(flaky: _FlakyFiles) -> None:
    flaky.pipe("/f", bytes(3_000_000))
    flaky.changed["/f"] = b"x" * 3_000_000
    with open_file("flaky://f") as file, pytest.raises(OSError, match="it changed while it was read"):
        file.read()


def test_folder_elsewhere_that_cannot_be_listed_is_told(flaky: _FlakyFiles) -> None:
    for name in ("a/1.txt", "b/2.txt"):
        flaky.pipe(f"/set/{name}", b"x")
    flaky.closed.add("/set/a")
    errors: list[OSError] = []

    assert [file.name for file in files_below("flaky://set", errors.append)] == ["b/2.txt"]
    assert list(map(str, errors)) == ["no access to /set/a"]


def test_failures_say_why_and_hide_secrets(tmp_path: Path, site: Site, memory: fsspec.AbstractFileSystem) -> None:
    site.pages["/f"] = BODY
    cases = {
        str(tmp_path / "none"): "No such file or directory",
        "memory://none": "no such file",
        site.url("/none?signature=hidden"): "the server answered 404",
        site.url("/broken/f"): "the server answered 503",
        site.url("/cut/f"): "peer closed connection",
        "http://127.0.0.1:1/f": "Connection refused",
        "http://me:secret@127.0.0.1:1/f": "Connection refused",
        "zzz://me:secret@host/f": "Protocol not known: zzz",
    }
    for location, reason in cases.items():
        with pytest.raises(OSError, match=reason) as caught:
            read_file(location)
        assert reason in reason_of(caught.value)  # without the file's name
        assert "secret" not in str(caught.value)
        assert "hidden" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/folder/f", b"x")
    for location in (str(tmp_path), "memory://folder"):
        with pytest.raises(OSError, match="it is no file"):
            file_state(location)
    assert is_folder("memory://folder")
    assert is_folder(str(tmp_path))


def test_existence_is_told_everywhere(place: Place) -> None:
    location = place(BODY)
    assert exists(location)
    assert not exists(f"{location}-not")


def test_patterns_match_files_sorted(tmp_path: Path, memory: fsspec.AbstractFileSystem, site: Site) -> None:
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).write_bytes(b"")
        memory.pipe(f"/set/{name}", b"x")
    assert matches(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    assert matches("memory://set/*.tar") == ["memory:///set/a.tar", "memory:///set/b.tar"]
    assert matches(site.url("/*.tar")) == []


def test_folders_list_what_is_not_hidden_in_one_order(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    for name in ("b/2.png", "b/1.png", "b-c/1.png", "a.txt", ".hidden/x.png", "b/.x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        memory.pipe(f"/set/{name}", b"123")
    expected = ["a.txt", "b/1.png", "b/2.png", "b-c/1.png"]
    errors: list[OSError] = []
    remote = files_below("memory://set", errors.append)

    assert [file.name for file in files_below(str(tmp_path), errors.append)] == expected
    assert errors == []
    assert [file.name for file in remote] == expected
    assert remote[1].location == "memory:///set/b/1.png"
    assert remote[1].state is not None
    assert remote[1].state.size_bytes == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_folder_that_cannot_be_read_is_told_and_passed_over(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "a.txt").write_bytes(b"")
    errors: list[OSError] = []

    assert [file.name for file in files_below(str(tmp_path), errors.append)] == ["a.txt"]
    assert [error.filename for error in errors] == [str(tmp_path / "closed")]
