"""Files on this machine, over HTTP and through fsspec: the same answers, and the same kind of error."""

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index.sources.files import exists, file_state, files_below, is_folder, matches, open_file, read_file, reason_of
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
