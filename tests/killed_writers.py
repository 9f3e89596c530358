"""Writers that are killed while they change an index, and what must be there afterwards.

A writer makes changes that follow from a seed, and acknowledges each with a byte as soon as its call returned. After a
kill the index holds all acknowledged changes, and all or nothing of the one that was under way.
"""

import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anykey.encoder.item import Modality
from anykey.index import FaissIndex, StoredImage
from anykey.index.key_index import NewKey, Scope
from anykey.index.publish.rollback import roll_back
from anykey.index.publish.verify import verify_index
from tests.live_index import WIDTH, unit_vectors

Contents = dict[str, int]  # keys, each with the number that its text, vector and image follow from
NUM_KEYS = 12
READY = b"+"
DONE = b"."


@dataclass(frozen=True)
class Change:
    """One call that changes an index: stores keys, deletes keys, or compacts."""

    stored: tuple[tuple[str, int], ...] = ()
    deleted: tuple[str, ...] = ()
    compacts: bool = False

    def apply(self, index: FaissIndex) -> None:
        """Makes the change."""
        if self.stored:
            index.upsert([numbered_key(key, number) for key, number in self.stored])
        if self.deleted:
            index.delete(self.deleted)
        if self.compacts:
            index.compact()

    def after(self, contents: Contents) -> Contents:
        """What there should be after the change."""
        left = {key: number for key, number in contents.items() if key not in self.deleted}
        return {**left, **dict(self.stored)}


FIXED = (
    Change(stored=(("k0", 100), ("k3", 101), ("new", 102))),
    Change(deleted=("k1", "new", "unknown")),
    Change(compacts=True),
    Change(stored=(("k2", 103), ("again", 104))),
    Change(deleted=("k4",)),
    Change(compacts=True),
    Change(stored=(("last", 105),)),
)


def drawn_changes(seed: int) -> Iterator[Change]:
    """Changes at random, without end."""
    draw = random.Random(seed)
    number = seed * 1000
    while True:
        number += 10
        names = draw.sample([f"k{key}" for key in range(NUM_KEYS)], draw.randint(1, 5))
        kind = draw.random()
        if kind < 0.7:
            yield Change(stored=tuple((name, number + place) for place, name in enumerate(names)))
        elif kind < 0.9:
            yield Change(deleted=tuple(names))
        else:
            yield Change(compacts=True)


def numbered_key(key: str, number: int) -> NewKey:
    """A key whose contents follow from a number."""
    image = StoredImage(f"image {number} ".encode() * 50, "image/png")
    return NewKey(key, numbered_vector(number), f"text {number}", (image,), {"number": number}, (f"p{number % 2}",))


def numbered_vector(number: int) -> NDArray[np.float32]:
    """The vector `[D]` of a key with that number."""
    vector_D: NDArray[np.float32] = unit_vectors(1, number)[0]
    return vector_D


def contents_of(index_dir: Path) -> Contents:
    """What a reader finds, by every way there is; fails where two ways disagree."""
    with FaissIndex.open(index_dir) as index:
        contents = {stored.key: int(stored.payload.metadata["number"]) for stored in index.scan()}
        for key, number in contents.items():
            new, stored = numbered_key(key, number), index.get(key)
            assert (stored.payload.text, stored.pools, index.image(key)) == (new.text, new.pools, new.images[0])
            assert index.vector(key).tolist() == new.vector_D.tolist()
            (hits,) = index.search(new.vector_D[None], 1, exact=True)
            assert (hits[0].key, hits[0].payload) == (key, stored.payload), f"{key} is not found by its vector"
        (hits,) = index.search(np.eye(1, WIDTH, dtype=np.float32), 1000)
        assert sorted(hit.key for hit in hits) == sorted(contents)
        assert index.count() == index.count(Scope(modalities=[Modality.FUSED])) == len(contents)
    return contents


def assert_clean(index_dir: Path) -> None:
    """Nothing is left of what was under way; to be called after a writer closed."""
    assert sorted(os.listdir(index_dir)) == [".lock", "CURRENT", "stores", "versions"]
    assert os.listdir(index_dir / "stores") == ["1"]
    assert os.listdir(index_dir / "stores" / "1") == ["store.sqlite"]
    versions = sorted(os.listdir(index_dir / "versions"), key=int)
    assert len(versions) <= 2
    assert (index_dir / "CURRENT").read_text() == f"{versions[-1]}\n"
    with FaissIndex.open(index_dir) as index:
        has_structure = index.manifest.structure is not None and not index.manifest.structure.is_exact
    files = ["bad_rows.jsonl", "fields.sqlite", "manifest.json", "rows.npy", "vectors.faiss"]
    files += ["structure.faiss"] if has_structure else []
    for version in versions:  # with what had been deleted live, if anything had
        found = set(os.listdir(index_dir / "versions" / version)) - {"deleted.jsonl"}
        assert found == set(files)


def make_changes(index_dir: Path) -> None:
    """Makes the fixed changes, and acknowledges each in a file beside the index."""
    acknowledged = os.open(f"{index_dir}.done", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        for change in FIXED:
            change.apply(index)
            os.write(acknowledged, DONE)


def look_after(index_dir: Path, verdict: Path) -> None:
    """Looks at an index whose writer of the fixed changes was killed; writes down how many changes were made."""
    done = Path(f"{index_dir}.done")
    num_done = len(done.read_bytes()) if done.exists() else 0
    before = {f"k{number}": number for number in range(5)}
    for change in FIXED[:num_done]:
        before = change.after(before)
    allowed = [before, *(change.after(before) for change in FIXED[num_done : num_done + 1])]
    contents = contents_of(index_dir)
    assert contents in allowed, f"{contents} is neither of {allowed}"
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([numbered_key("next", 200)])
        index.compact()
    assert contents_of(index_dir) == {**contents, "next": 200}
    assert_clean(index_dir)
    verdict.write_text(str(num_done))


def go_back(index_dir: Path) -> None:
    """Goes back to what `make_changed` had published, undoing what came since."""
    roll_back(index_dir, "2", undo_live=True)


def make_changed(index_dir: Path) -> None:
    """Changes keys in a version of its own, and others after it."""
    with FaissIndex.open(index_dir, writable=True, compact_after=0) as index:
        for change in FIXED[:4]:
            change.apply(index)


def look_after_rollback(index_dir: Path, verdict: Path) -> None:
    """Looks at an index whose rollback was killed, before or after it took place; does it again if need be."""
    before = {f"k{number}": number for number in range(5)}
    after = before
    for change in FIXED[:4]:
        after = change.after(after)
    contents = contents_of(index_dir)
    assert contents in (before, after), f"{contents} is neither {before} nor {after}"
    if contents == after:
        go_back(index_dir)
        assert contents_of(index_dir) == before
    assert verify_index(index_dir) == []
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([numbered_key("next", 200)])
        index.compact()
    assert contents_of(index_dir) == {**before, "next": 200}
    assert_clean(index_dir)
    verdict.write_text("before" if contents == before else "after")


def kill_at_random(index_dir: Path, duration_s: float, seed: int) -> None:
    """Kills one writer after the other at random moments, and looks each time; says how many it killed."""
    draw = random.Random(seed)
    end_s = time.monotonic() + duration_s
    contents = contents_of(index_dir)
    num_killed = num_changes = 0
    while time.monotonic() < end_s:
        num_killed += 1
        num_acknowledged = _run_and_kill(index_dir, seed + num_killed, draw.uniform(0, 0.06))
        changes = drawn_changes(seed + num_killed)
        for _ in range(num_acknowledged):
            contents = next(changes).after(contents)
        found = contents_of(index_dir)
        under_way = next(changes).after(contents)
        assert found in (contents, under_way), f"{found} is neither {contents} nor {under_way}"
        contents = found
        num_changes += num_acknowledged
    with FaissIndex.open(index_dir, writable=True) as index:
        index.upsert([numbered_key("next", 7)])
        index.compact()
    assert_clean(index_dir)
    print(f"{num_killed} {num_changes}")  # noqa: T201


def _run_and_kill(index_dir: Path, seed: int, delay_s: float) -> int:
    """Lets a writer work for a while and kills it; gives the number of changes that it acknowledged."""
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_fd)
        _work(index_dir, seed, lambda mark: os.write(write_fd, mark))
        os._exit(0)
    os.close(write_fd)
    if delay_s > 0.01:  # else it is killed while it opens the index
        select.select([read_fd], [], [], 20)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    acknowledged = b"".join(iter(lambda: os.read(read_fd, 65536), b""))
    os.close(read_fd)
    return acknowledged.count(DONE)


def _work(index_dir: Path, seed: int, tell: Callable[[bytes], object]) -> None:
    try:
        with FaissIndex.open(index_dir, writable=True, compact_after=1 + seed % 6) as index:
            tell(READY)
            for change in drawn_changes(seed):
                change.apply(index)
                tell(DONE)
    finally:
        os._exit(1)
