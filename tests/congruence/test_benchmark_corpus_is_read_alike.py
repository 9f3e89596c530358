"""A dataset's keys are the same whether an index reads its owners' files or what the benchmark wrote of them."""

from pathlib import Path

from anykey.benchmark.__main__ import main
from anykey.benchmark.datasets import open_dataset
from tests.corpora import entries
from tests.drawn_pairs import drawn_pairs, write_shard

Facts = tuple[str, str | None, tuple[str, ...], tuple[str, ...], str]


def facts_of(*names: Path) -> dict[str, Facts]:
    """What an index learns of each key; a key that several files list has all their pools."""
    found: dict[str, Facts] = {}
    for entry in entries(*names):
        pools = {*entry.pools, *(found[entry.key][3] if entry.key in found else ())}
        images = tuple(str(Path(str(image)).resolve()) for image in entry.images)
        found[entry.key] = (entry.key, entry.text, images, tuple(sorted(pools)), str(entry.metadata))
    return found


def test_mbeir_is_read_as_its_owners_have_it_and_as_the_benchmark_writes_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "pairs.tar", drawn_pairs(6))
    root = tmp_path / "drawn"
    assert main(["from-pairs", "--pairs", str(tmp_path / "pairs.tar"), "--output", str(root), "--name", "drawn"]) == 0
    assert main(["corpus", "--dataset", str(root), "--output", str(tmp_path / "keys" / "corpus.jsonl")]) == 0

    written = facts_of(tmp_path / "keys" / "corpus.jsonl")

    assert written == facts_of(root)
    assert any(len(pools) > 1 for _, _, _, pools, _ in written.values()), "texts are keys of two tasks"
    assert len(written) == open_dataset(root).num_keys()
