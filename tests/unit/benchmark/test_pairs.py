"""Image-caption pairs become tasks in which no query's text is in the key it looks for."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anykey.benchmark.dataset import Entry, Query, Task
from anykey.benchmark.datasets.mbeir import MBeir, read_jsonl
from anykey.benchmark.datasets.mixbench import MixBench
from anykey.benchmark.errors import PairsError
from anykey.benchmark.pairs import run
from anykey.benchmark.settings import FromPairsSettings
from anykey.benchmark.shards import Member, write_shard
from tests.local_tasks import image_of, local_tasks, pool_of
from tests.pictures import encoded, plain

IMAGES = {name: encoded(plain(name), "PNG") for name in ("red", "green", "blue")}
CAPTIONS = {
    "red": ["two dogs", "dogs run", "a lawn"],
    "green": ["a cat", "an animal", "a lawn"],  # shares a caption with the first
    "blue": ["a cow", "a cat", "an animal"],  # one of its captions is the key of the second
}


def settings(tmp_path: Path, **changes: object) -> FromPairsSettings:
    """Writes the shard and gives the settings that read it."""
    shard = tmp_path / "test.tar"
    if not shard.exists():
        members = []
        for name, texts in CAPTIONS.items():
            members += [Member(f"{name}.png", IMAGES[name])]
            members += [Member(f"{name}.json", json.dumps({"captions": texts}).encode())]
        write_shard(shard, members)
    given = {"pairs": [str(shard)], "output": tmp_path / "out", "name": "farm", **changes}
    return FromPairsSettings.model_validate(given)


def judged(dataset: MBeir, task: Task) -> dict[str, set[str]]:
    """Query (its text or image) to what its relevant keys hold (text or image names joined by +)."""
    pool = pool_of(dataset, task)
    names = {f"{i:06d}.png": name for i, name in enumerate(CAPTIONS)}

    def held(item: Query | Entry) -> str:
        image = image_of(item.images)
        return "+".join(part for part in (item.text, names[image.name] if image else None) if part)

    return {held(query): {held(pool[did]) for did in query.relevant} for query in dataset.queries(task)}


def global_pool(root: Path) -> list[dict[str, Any]]:
    """Rows of the global candidate file."""
    return [row for _, row in read_jsonl(root / "cand_pool/global/mbeir_union_test_cand_pool.jsonl")]


def test_four_tasks_are_judged_as_the_captions_say(tmp_path: Path) -> None:
    assert run(settings(tmp_path)) == 0
    dataset = MBeir(tmp_path / "out", "test")
    tasks = local_tasks(dataset)
    assert sorted(tasks) == [0, 1, 2, 3]
    assert judged(dataset, tasks[0]) == {
        "Two dogs.": {"red"},
        "Dogs run.": {"red"},
        "A lawn.": {"red", "green"},
        "A cat.": {"green", "blue"},
        "An animal.": {"green", "blue"},
        "A cow.": {"blue"},
    }
    assert judged(dataset, tasks[1]) == {
        "Dogs run.": {"Two dogs."},
        "A lawn.": {"Two dogs.", "A cat."},
        "An animal.": {"A cat.", "A cow."},
    }
    assert judged(dataset, tasks[2]) == {
        "Dogs run.": {"Two dogs.+red"},
        "A lawn.": {"Two dogs.+red", "A cat.+green"},
        "An animal.": {"A cat.+green", "A cow.+blue"},
    }
    assert judged(dataset, tasks[3]) == {"red": {"Two dogs."}, "green": {"A cat."}, "blue": {"A cow.", "A cat."}}


def test_all_captions_are_text_keys_when_wanted(tmp_path: Path) -> None:
    run(settings(tmp_path, text_keys="all"))
    dataset = MBeir(tmp_path / "out", "test")
    tasks = local_tasks(dataset)
    assert judged(dataset, tasks[3])["red"] == {"Two dogs.", "Dogs run.", "A lawn."}
    assert len(pool_of(dataset, tasks[3])) == 6
    assert len(pool_of(dataset, tasks[1])) == 3


def test_the_global_pool_is_the_union_with_every_key_once(tmp_path: Path) -> None:
    run(settings(tmp_path))
    dataset = MBeir(tmp_path / "out", "test")
    union = [row["did"] for row in global_pool(tmp_path / "out")]
    local = {entry.key for entry in dataset.corpus()}
    assert len(union) == len(set(union)) == 9
    assert set(union) == local
    qids = [query.id for task in local_tasks(dataset).values() for query in dataset.queries(task)]
    assert len(set(qids)) == len(qids)


def test_with_keys_once_every_image_is_one_key_of_the_global_pool(tmp_path: Path) -> None:
    run(settings(tmp_path, keys="once"))
    dataset = MBeir(tmp_path / "out", "test")
    tasks = local_tasks(dataset)
    assert judged(dataset, tasks[0]) == {"Two dogs.": {"red"}, "Dogs run.": {"red"}, "A lawn.": {"red"}}
    assert judged(dataset, tasks[1]) == {"An animal.": {"A cat."}, "A lawn.": {"A cat."}}
    assert judged(dataset, tasks[2]) == {"A cat.": {"A cow.+blue"}, "An animal.": {"A cow.+blue"}}
    assert judged(dataset, tasks[3]) == {"green": {"A cat."}}
    assert [row["modality"] for row in global_pool(tmp_path / "out")] == ["image", "image,text", "text"]


def test_images_are_copied_byte_by_byte(tmp_path: Path) -> None:
    run(settings(tmp_path))
    images = sorted((tmp_path / "out/mbeir_images/farm_images").iterdir())
    assert [image.read_bytes() for image in images] == list(IMAGES.values())


def test_a_current_dataset_is_left_alone_until_the_shard_changes(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    run(chosen)
    before = (tmp_path / "out/dataset.json").stat().st_ino
    run(chosen)
    assert (tmp_path / "out/dataset.json").stat().st_ino == before
    run(settings(tmp_path, limit=2))
    assert len(list((tmp_path / "out/mbeir_images/farm_images").iterdir())) == 2


def write_pairs(path: Path, *pairs: tuple[str, bytes, str]) -> list[str]:
    """A shard of these names, images and texts, as the setting names it."""
    members: list[Member] = []
    for name, image, text in pairs:
        members += [Member(f"{name}.png", image), Member(f"{name}.txt", text.encode())]
    write_shard(path, members)
    return [str(path)]


def test_pairs_with_one_caption_each_give_the_two_cross_modal_tasks(tmp_path: Path) -> None:
    named = write_pairs(tmp_path / "one.tar", ("1", IMAGES["red"], "one"), ("2", IMAGES["blue"], "two"))
    run(settings(tmp_path, pairs=named))
    assert list(local_tasks(MBeir(tmp_path / "out", "test"))) == [0, 3]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (
            encoded(Image.new("1", (201, 1)), "PNG"),
            "201 x 1 pixels; the longer side may be at most 200 times the shorter",
        ),
        (encoded(Image.new("1", (8001, 8000)), "PNG"), "8001 x 8000 pixels, at most 64000000 are accepted"),
        (IMAGES["green"] + bytes(20 * 1024**2), "bytes, at most 20971520 are accepted"),
    ],
    ids=["aspect", "pixels", "bytes"],
)
def test_an_image_that_an_index_refuses_is_a_bad_row(tmp_path: Path, image: bytes, reason: str) -> None:
    rows = [("1", IMAGES["red"], "one"), ("2", image, "two"), ("3", IMAGES["blue"], "three")]
    run(settings(tmp_path, pairs=write_pairs(tmp_path / "one.tar", *rows)))
    ((_, row),) = read_jsonl(tmp_path / "out/bad_rows.jsonl")
    assert reason in row["reason"]
    assert len(list((tmp_path / "out/mbeir_images/farm_images").iterdir())) == 2


def test_pairs_of_one_image_are_one_image_with_all_their_captions(tmp_path: Path) -> None:
    rows = [("red", "dogs run"), ("red", "two dogs"), ("blue", "a cow"), ("red", "two dogs")]
    lines = [json.dumps({"image": f"{name}.png", "caption": text}) for name, text in rows]
    for name, image in IMAGES.items():
        (tmp_path / f"{name}.png").write_bytes(image)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    run(settings(tmp_path, pairs=[str(tmp_path / "rows.jsonl")]))
    dataset = MBeir(tmp_path / "out", "test")
    first = dataset.tasks()[0]
    assert [len(query.relevant) for query in dataset.queries(first)] == [1, 1, 1]
    assert len(pool_of(dataset, first)) == 2


def test_samples_of_two_shards_may_have_the_same_name(tmp_path: Path) -> None:
    first = write_pairs(tmp_path / "a.tar", ("0", IMAGES["red"], "one"))
    second = write_pairs(tmp_path / "b.tar", ("0", IMAGES["blue"], "two"))
    run(settings(tmp_path, pairs=first + second))
    dataset = MBeir(tmp_path / "out", "test")
    assert len(pool_of(dataset, dataset.tasks()[0])) == 2


def test_bad_samples_are_left_out_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [("x", b"no image", "one"), ("y", IMAGES["green"], " \n"), ("z", IMAGES["green"], '""')]
    named = write_pairs(tmp_path / "a.tar", ("1", IMAGES["red"], "a"), *bad, ("2", IMAGES["blue"], "b"))
    assert run(settings(tmp_path, pairs=named)) == 0
    listed = [json.loads(line) for line in (tmp_path / "out/bad_rows.jsonl").read_text().splitlines()]
    assert [row["where"] for row in listed] == [f"{named[0]}: sample '{name}'" for name in "xyz"]
    reasons = (
        "cannot decode the image",
        "expected an image and a caption, found an image alone",
        "no caption has a word",
    )
    assert all(row["reason"].startswith(reason) for row, reason in zip(listed, reasons, strict=True))
    manifest = json.loads((tmp_path / "out/dataset.json").read_text())
    assert (manifest["images"], manifest["bad_rows"]) == (2, 3)
    said = capsys.readouterr().err
    assert "3 rows are no usable pairs" in said
    assert f"{named[0]}: sample 'x': cannot decode" in said
    assert run(settings(tmp_path, pairs=named, limit=2)) == 0  # a dataset with bad rows can be replaced


def test_pairs_without_two_usable_images_are_refused(tmp_path: Path) -> None:
    named = write_pairs(tmp_path / "a.tar", ("1", IMAGES["red"], "one"), ("2", b"", "two"))
    with pytest.raises(PairsError, match=r"at least two images to tell apart, got 1 \(1 bad rows\)"):
        run(settings(tmp_path, pairs=named))
    assert not (tmp_path / "out").exists()


def test_mixbenchs_layout_is_what_mixbenchs_reader_reads(tmp_path: Path) -> None:
    assert run(settings(tmp_path, layout="mixbench")) == 0
    dataset = MixBench(tmp_path / "out", "test")
    (task,) = dataset.tasks()
    keys = {entry.key: (entry.text, bool(entry.images)) for entry in dataset.corpus()}
    assert keys == {"farm/0": (None, True), "farm/1": ("A cat.", False), "farm/2": ("A cow.", True)}
    asked = {query.text: query.relevant for query in dataset.queries(task)}
    assert asked == {"Dogs run.": {"farm/0": 1}, "An animal.": {"farm/1": 1}}  # the third's is the text of a key
    assert run(settings(tmp_path, layout="mixbench")) == 0
    with pytest.raises(ValueError, match="whose text is its first caption"):
        settings(tmp_path, layout="mixbench", text_keys="all")
