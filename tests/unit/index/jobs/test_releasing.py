"""Protects releases: checkpoint and index are published together or not at all, and one can go back to earlier ones."""

import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest

from anykey.index import FaissIndex
from anykey.index.commands import run
from anykey.index.errors import (
    EncoderMismatchError,
    IndexLockedError,
    InvalidReleaseError,
    OutputExistsError,
    ReleaseNotFoundError,
)
from anykey.index.jobs.releasing import list_releases, publish_release, roll_back_release
from anykey.index.releases import ReleaseDirectory
from anykey.index.settings import ReleaseSettings
from anykey.program.locks import try_lock
from tests.live_index import ENCODER, everything, make_index, new_keys, unit_vectors


def checkpoint(folder: Path, fingerprint: str = ENCODER.fingerprint) -> Path:
    """A checkpoint that says of itself what the drawn index says of its encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"fingerprint": fingerprint, "width": ENCODER.width, "fusion": ENCODER.fusion}
    (folder / "encoder.json").write_text(json.dumps(facts))
    (folder / "weights").write_bytes(b"w" * 1000)
    return folder


@pytest.fixture
def made(tmp_path: Path) -> ReleaseSettings:
    """What a release can be made of."""
    return ReleaseSettings(
        checkpoint=str(checkpoint(tmp_path / "checkpoint")),
        index=str(make_index(tmp_path / "index", new_keys(9))),
        releases=tmp_path / "releases",
    )


def test_a_release_holds_all_of_the_checkpoint_and_the_index(made: ReleaseSettings) -> None:
    with FaissIndex.open(Path(made.index), writable=True) as index:
        index.delete(["k3"])  # not folded, and yet it must be in the copy
    release, removed = publish_release(made)
    assert (release.number, release.num_keys, removed) == ("1", 8, [])
    opened = ReleaseDirectory(made.releases).open()
    assert everything(Path(opened.index)) == everything(Path(made.index))
    assert (Path(opened.checkpoint) / "weights").read_bytes() == b"w" * 1000
    assert opened.facts.encoder == ENCODER
    opened.close()


def test_what_is_changed_in_a_release_is_not_changed_where_it_came_from(made: ReleaseSettings) -> None:
    publish_release(made)
    before = everything(Path(made.index))
    opened = ReleaseDirectory(made.releases).open()
    with FaissIndex.open(Path(opened.index), writable=True) as index:
        index.upsert(new_keys(12)[9:])
        index.compact()
    opened.close()
    assert everything(Path(made.index)) == before
    with FaissIndex.open(Path(made.index), writable=True) as index:
        index.delete(["k0"])
        index.compact()
    assert len(everything(Path(opened.index))) == 12


def test_a_release_of_another_encoder_is_refused_and_leaves_nothing(made: ReleaseSettings, tmp_path: Path) -> None:
    publish_release(made)
    other = made.model_copy(update={"checkpoint": str(checkpoint(tmp_path / "other", "sha256:other"))})
    with pytest.raises(EncoderMismatchError, match="sha256:other"):
        publish_release(other)
    assert ReleaseDirectory(made.releases).current() == "1"
    assert sorted(path.name for path in made.releases.iterdir()) == [".lock", "1", "CURRENT"]


def test_one_goes_back_to_the_release_before_or_to_a_named_one(made: ReleaseSettings) -> None:
    for _ in range(3):
        publish_release(made.model_copy(update={"keep": 3}))
    directory = ReleaseDirectory(made.releases)
    stamps = [directory.stamp()]
    assert roll_back_release(made.releases, None).number == directory.current() == "2"
    assert roll_back_release(made.releases, None).number == directory.current() == "1"
    assert roll_back_release(made.releases, "3").number == directory.current() == "3"
    stamps.append(directory.stamp())
    assert len(set(stamps)) == 2
    with pytest.raises(ReleaseNotFoundError, match="no release 7 in"):
        roll_back_release(made.releases, "7")
    roll_back_release(made.releases, "1")
    with pytest.raises(ReleaseNotFoundError, match="no release before 1"):
        roll_back_release(made.releases, None)


class Overtaken(ReleaseDirectory):
    """One in which the first release becomes the current one again while somebody reads which one is."""

    def current(self) -> str | None:
        name = super().current()
        if name == "2":
            roll_back_release(self.path, "1")
        return name


def test_a_release_that_comes_while_one_looks_is_not_taken_for_two(made: ReleaseSettings) -> None:
    for _ in range(2):
        publish_release(made)
    assert Overtaken(made.releases).stamp() == ReleaseDirectory(made.releases).stamp()


def test_old_releases_are_deleted_but_for_those_that_are_read_and_the_current_one(made: ReleaseSettings) -> None:
    directory = ReleaseDirectory(made.releases)
    publish_release(made)
    read = directory.open()
    assert publish_release(made)[1] == []
    assert publish_release(made)[1] == []  # the first is read
    assert directory.names() == ["1", "2", "3"]
    read.close()
    assert publish_release(made)[1] == ["1", "2"]
    roll_back_release(made.releases, None)
    one = made.model_copy(update={"keep": 1})
    assert publish_release(one)[1] == ["3", "4"]
    assert [(one.name, one.is_current) for one in list_releases(made.releases)] == [("5", True)]


def test_a_release_that_refers_takes_nothing_and_notices_when_it_is_another(made: ReleaseSettings) -> None:
    referring = made.model_copy(update={"refer": True})
    publish_release(referring)
    opened = ReleaseDirectory(made.releases).open()
    assert (opened.checkpoint, opened.index) == (made.checkpoint, made.index)
    opened.close()
    publish_release(referring)
    checkpoint(Path(made.checkpoint), "sha256:later")
    with pytest.raises(InvalidReleaseError, match="is gone or is another"):
        roll_back_release(made.releases, None)


def test_what_publishing_was_stopped_in_is_cleared_away(made: ReleaseSettings) -> None:
    (made.releases / "1.part" / "index").mkdir(parents=True)
    (made.releases / "1.part" / "index" / "half").write_bytes(b"x")
    assert publish_release(made)[0].number == "1"
    assert not (made.releases / "1.part").exists()


def test_one_publishes_at_a_time(made: ReleaseSettings) -> None:
    publish_release(made)
    with (made.releases / ".lock").open("ab") as file:
        assert try_lock(file.fileno(), fcntl.LOCK_EX)
        with pytest.raises(IndexLockedError, match="is publishing"):
            publish_release(made)


def test_sizes_tell_what_deleting_a_release_would_free(made: ReleaseSettings) -> None:
    publish_release(made)
    (listed,) = list_releases(made.releases)
    folder = made.releases / "1"
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    assert listed.own_bytes == sum(facts.st_size for facts in files if facts.st_nlink == 1)
    assert listed.shared_bytes == sum(facts.st_size for facts in files if facts.st_nlink > 1) > 1000
    assert listed.own_bytes > os.stat(folder / "index" / "stores" / "1" / "store.sqlite").st_size


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"{", "is damaged"), (b'{"number": "1"}', "is damaged, or of a later version"), (None, "is missing")],
)
def test_a_damaged_release_is_told_and_listed_as_such(
    made: ReleaseSettings, content: bytes | None, expected: str
) -> None:
    publish_release(made)
    path = made.releases / "1" / "release.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidReleaseError, match=expected):
        ReleaseDirectory(made.releases).open()
    assert list_releases(made.releases)[0].facts is None


def test_a_current_release_that_is_none_is_told(tmp_path: Path) -> None:
    directory = ReleaseDirectory(tmp_path)
    with pytest.raises(ReleaseNotFoundError, match="anykey-index release --checkpoint"):
        directory.open()
    (tmp_path / "CURRENT").write_text("first\n")
    with pytest.raises(InvalidReleaseError, match="expected the number of a release"):
        directory.open()
    (tmp_path / "CURRENT").write_text("3\n")
    with pytest.raises(InvalidReleaseError, match=r"release 3 of .* is missing"):
        directory.open()


def test_one_goes_back_to_a_named_release_though_the_current_one_cannot_be_told(made: ReleaseSettings) -> None:
    for _ in range(2):
        publish_release(made)
    (made.releases / "CURRENT").write_text("")
    with pytest.raises(InvalidReleaseError, match=r"CURRENT is damaged: .* `anykey-index rollback --to`"):
        roll_back_release(made.releases, None)
    assert roll_back_release(made.releases, "1").number == "1"
    assert ReleaseDirectory(made.releases).current() == "1"


def test_releases_are_not_put_among_other_files(made: ReleaseSettings) -> None:
    index, checkpoint = Path(made.index), Path(made.checkpoint)
    before = (index / "CURRENT").read_bytes()
    for place, expected in (
        (index, "is an index; releases need a directory of their own"),
        (index / "releases", "is in the index"),
        (checkpoint / "releases", "is in the checkpoint"),
    ):
        with pytest.raises(InvalidReleaseError, match=expected):
            publish_release(made.model_copy(update={"releases": place}))
    assert (index / "CURRENT").read_bytes() == before
    publish_release(made)
    with pytest.raises(OutputExistsError, match="has releases in it; an index needs a directory of its own"):
        make_index(made.releases, new_keys(3))
    assert ReleaseDirectory(made.releases).current() == "1"
    assert not (checkpoint / "releases").exists()


def test_a_release_finds_what_its_source_finds(made: ReleaseSettings) -> None:
    publish_release(made.model_copy(update={"check": False}))
    opened = ReleaseDirectory(made.releases).open()
    with FaissIndex.open(Path(opened.index)) as index, FaissIndex.open(Path(made.index)) as source:
        queries = unit_vectors(3, seed=5).astype(np.float32)
        assert index.search(queries, 4) == source.search(queries, 4)
    opened.close()


def test_the_commands_publish_list_and_go_back(made: ReleaseSettings, capsys: pytest.CaptureFixture[str]) -> None:
    publish = ["--checkpoint", made.checkpoint, "--index", made.index, "--releases", str(made.releases)]
    assert run(["release", *publish, "--note", "the first"]) == 0
    assert "published release 1 of" in capsys.readouterr().out
    assert run(["release", *publish, "--keep", "1"]) == 0
    assert "deleted release 1" in capsys.readouterr().out
    assert run(["release", *publish]) == 0
    assert run(["rollback", "--releases", str(made.releases)]) == 0
    assert "release 2 of" in capsys.readouterr().out
    assert run(["releases", "--releases", str(made.releases)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["2", "current"], ["3", lines[1].split()[1]]]
    assert run(["releases", "--releases", str(made.releases), "--as-json"]) == 0
    assert [one["is_current"] for one in json.loads(capsys.readouterr().out)["releases"]] == [True, False]
    assert run(["rollback", "--releases", str(made.releases), "--index", made.index]) == 2
    assert "expected either index, or releases" in capsys.readouterr().err
    assert run(["rollback", "--releases", str(made.releases), "--dry-run"]) == 2
