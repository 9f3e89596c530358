"""The written dataset is M-BEIR's layout, reproducible to the byte, and never written over something else."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from anykey.benchmark.datasets.mbeir import MBeir, read_jsonl
from anykey.benchmark.errors import DatasetExistsError
from anykey.benchmark.shapesworld.captions import finished
from anykey.benchmark.shapesworld.write import run
from tests.local_tasks import local_tasks, pool_of
from tests.unit.benchmark.conftest import small_settings


def files(root: Path) -> dict[str, bytes]:
    """Every file below the root."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def samples(root: Path, split: str) -> list[dict[str, bytes]]:
    """Samples of a split's shards: extension to bytes."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted((root / split).glob("pairs-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                name, extension = member.name.split(".")
                file = tar.extractfile(member)
                assert file is not None
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                found.setdefault(name, {})[extension] = file.read()
    return list(found.values())


def test_the_reader_finds_all_eight_tasks_with_queries_keys_and_judgements(shapesworld_dir: Path) -> None:
    dataset = MBeir(shapesworld_dir, "test")
    tasks = local_tasks(dataset)
    assert list(tasks) == [0, 1, 2, 3, 4, 6, 7, 8]
    path = shapesworld_dir / "cand_pool/global/mbeir_union_test_cand_pool.jsonl"
    union = {row["did"] for _, row in read_jsonl(path)}
    for task in tasks.values():
        pool = pool_of(dataset, task)
        assert pool.keys() <= union
        for query in dataset.queries(task):
            assert {pool[did].modality for did in query.relevant} == {task.key_modality}
    assert len(union) == sum(len(pool_of(dataset, task)) for task in tasks.values()) == dataset.num_keys()


def test_rows_have_mbeir_keys_and_qrels_five_columns(shapesworld_dir: Path) -> None:
    query_keys = "qid query_txt query_img_path query_modality query_src_content pos_cand_list neg_cand_list task_id"
    for path in shapesworld_dir.glob("query/test/*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert list(row) == query_keys.split()
            assert row["qid"].startswith("10:")
            assert json.loads(row["query_src_content"])["target"]
    for path in shapesworld_dir.glob("qrels/test/*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            qid, zero, did, grade, task = line.split()
            assert (zero, grade) == ("0", "1")
            assert f"task{task}_" in path.name
            assert qid.startswith("10:")
            assert did.startswith("10:")


def test_all_images_named_in_the_pools_exist_and_are_small_jpegs(shapesworld_dir: Path) -> None:
    images = {image for entry in MBeir(shapesworld_dir, "test").corpus() for image in entry.images}
    assert images
    for path in images:
        assert isinstance(path, Path)
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (64, 64))


def test_instructions_have_a_prompt_for_every_task(shapesworld_dir: Path) -> None:
    dataset = MBeir(shapesworld_dir, "test")
    instructions = {query.instruction for task in dataset.tasks() for query in dataset.queries(task)}
    assert len(instructions) == 8
    assert None not in instructions


@pytest.mark.parametrize(("split", "count", "shards"), [("train", 12, 3), ("val", 5, 1)])
def test_pairs_are_webdataset_samples(shapesworld_dir: Path, split: str, count: int, shards: int) -> None:
    found = samples(shapesworld_dir, split)
    assert len(found) == count
    assert len(list((shapesworld_dir / split).iterdir())) == shards
    for sample in found:
        row = json.loads(sample["json"])
        assert 2 <= len(row["captions"]) <= 4
        assert row["captions"] == [finished(caption) for caption in row["captions"]]
        assert row["id"].startswith(split)
        assert Image.open(io.BytesIO(sample["jpg"])).size == (64, 64)


def test_no_scene_comes_twice_over_all_splits(tmp_path: Path) -> None:
    from anykey.benchmark.shapesworld.write import make_plan

    plan = make_plan(small_settings(tmp_path, train_scenes=3000, val_scenes=300))
    train, val = [{scene.code for scene in scenes} for scenes in (plan.train, plan.val)]
    test = {key.scene.code for task in plan.tasks for key in task.pool}
    test |= {query.target.code for task in plan.tasks for query, _ in task.queries}
    assert (len(train), len(val)) == (3000, 300)
    assert not train & val
    assert not (train | val) & test


def test_the_same_settings_give_the_same_bytes(shapesworld_dir: Path, tmp_path: Path) -> None:
    run(small_settings(tmp_path / "again"))
    assert files(tmp_path / "again") == files(shapesworld_dir)


def test_several_processes_draw_the_same_bytes_as_one(shapesworld_dir: Path, tmp_path: Path) -> None:
    run(small_settings(tmp_path / "again", workers=2, train_scenes=120))
    run(small_settings(tmp_path / "alone", workers=1, train_scenes=120))
    assert files(tmp_path / "again") == files(tmp_path / "alone")


def test_another_seed_gives_other_scenes(shapesworld_dir: Path, tmp_path: Path) -> None:
    run(small_settings(tmp_path / "other", seed=1))
    other = files(tmp_path / "other")
    name = "cand_pool/global/mbeir_union_test_cand_pool.jsonl"
    assert other[name] != files(shapesworld_dir)[name]


def test_a_current_dataset_is_left_alone_and_changed_settings_replace_it(tmp_path: Path) -> None:
    output = tmp_path / "shapesworld"
    run(small_settings(output))
    before = (output / "dataset.json").stat().st_ino
    run(small_settings(output))
    assert (output / "dataset.json").stat().st_ino == before
    run(small_settings(output, redraw=True))
    assert (output / "dataset.json").stat().st_ino != before
    run(small_settings(output, val_scenes=6))
    assert len(samples(output, "val")) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["shapesworld"]


def test_a_directory_of_somebody_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(DatasetExistsError, match="did not write"):
        run(small_settings(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
