"""WebVid-CoVR is read as its owners publish it and scores as their code does on the same vectors."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anykey.benchmark.__main__ import main
from anykey.benchmark.dataset import image_bytes
from anykey.benchmark.datasets import open_dataset
from anykey.benchmark.datasets.covr import KEPT, REMOVED, WebVidCovr, clean_edit, frame_weights, read_rows
from anykey.benchmark.errors import DatasetError, DatasetFormatError
from anykey.benchmark.scoring import TaskResult, score
from anykey.benchmark.videos import sample_places
from tests.unit.benchmark.fake_service import serving
from tests.unit.benchmark.knowing_service import KnowingService
from tests.unit.benchmark.ranked_vectors import answers_of

TEST_CSV = "annotation/webvid-covr/webvid8m-covr_test.csv"
POOLINGS = ("query", "mean", "middle")
WORDS = {REMOVED: "reference removed", KEPT: "reference kept"}


@pytest.fixture(scope="module")
def folder(mini: Callable[[str], Path]) -> Path:
    return mini("covr")


@pytest.fixture(scope="module")
def from_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without folders of frames."""
    root = Path(shutil.copytree(folder, tmp_path_factory.mktemp("covr") / "covr"))
    shutil.rmtree(root / "datasets/WebVid/8M/frames")
    return root


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "covr"))


def pooled(folder: Path, root: Path, pooling: str) -> dict[str, NDArray[np.float64]]:
    """Each key's vector, of the stored vectors of the frames that the dataset gives it."""
    vectors = np.load(folder / "vectors.npz")
    found = {}
    for entry in open_dataset(root, options=[f"pooling={pooling}"]).corpus():
        frames = vectors[f"frames:{entry.key}"].astype(float)
        if pooling == "middle":
            frames = frames[[len(frames) // 2]]
        assert len(entry.images) == len(frames)
        vector = np.average(frames, axis=0, weights=entry.image_weights)
        found[entry.key] = vector / np.linalg.norm(vector)
    return found


def scored(folder: Path, root: Path, pooling: str) -> dict[str, TaskResult]:
    dataset = open_dataset(root)
    order = json.loads((folder / "vectors_order.json").read_text())
    stored = dict(zip(order, np.load(folder / "vectors.npz")["queries"].astype(float), strict=True))
    keys, results = pooled(folder, root, pooling), {}
    for task in dataset.tasks():
        queries = dataset.queries(task)
        by_id = {query.id: stored[key] for query in queries for key in query.relevant}
        answers = answers_of(task, queries, by_id, dataset.keys(str(task.pool)), keys)
        published = dataset.published(task, queries, [answers[query.id].hits for query in queries])
        results[task.candidates] = score(task, 1, queries, answers, [1], published=published)
    return results


@pytest.mark.parametrize("pooling", POOLINGS)
def test_numbers_are_those_of_covr_whatever_the_order_of_the_rows(folder: Path, tmp_path: Path, pooling: str) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "covr"))
    shutil.copy(folder / TEST_CSV.replace("_test", "_test_unsorted"), root / TEST_CSV)
    expected = json.loads((folder / "expected" / "recalls.json").read_text())
    for results in (scored(folder, folder, pooling), scored(folder, root, pooling)):
        for candidates, result in results.items():
            kind = f"emb_pool={pooling} / {WORDS[candidates]}"
            theirs = expected["original"][f"webvid8m-covr_test.csv / {kind}"]
            ours = {f"R{k}": result.numbers[f"success@{k}"].value for k in (1, 5, 10, 50)}
            ours |= {each.metric: sum(each.values) / len(each.values) for each in result.published}
            assert {name: round(100 * value, 2) for name, value in ours.items()} == {
                name: value for name, value in theirs.items() if name != "annotation"
            }
            formula = expected["formula"][kind]
            assert all(round(100 * ours[name], 2) == formula[name] for name in ("R1", "R5", "R10", "R50"))


def test_each_rank_is_the_definitions(folder: Path) -> None:
    result = scored(folder, folder, "query")[REMOVED]
    path = folder / "expected" / "ranks_query_pool_reference_removed.jsonl"
    ranks = [json.loads(line)["rank"] for line in path.read_text().splitlines()]
    assert list(result.ranks) == [(rank,) for rank in ranks]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_pooled_as_covr_does(folder: Path, pooling: str) -> None:
    vectors = np.load(folder / "vectors.npz")
    for key, vector in pooled(folder, folder, pooling).items():
        theirs = vectors[f"pooled_{pooling}:{key}"].astype(float)
        assert vector == pytest.approx(theirs / np.linalg.norm(theirs), abs=1e-6)


def test_weights_are_a_softmax_and_fall_back_to_equal_ones() -> None:
    weights = frame_weights([0.1, 0.2], 2)
    assert weights[1] / weights[0] == pytest.approx(np.e)
    assert sum(weights) == pytest.approx(1)
    assert frame_weights([900.0, 0.0], 2) == pytest.approx((1.0, 0.0))
    assert frame_weights([], 4) == frame_weights([0.3, 0.1], 4) == (0.25,) * 4


def test_edits_are_cleaned_as_covr_does(folder: Path) -> None:
    edits = json.loads((folder / "expected" / "edits.json").read_text())
    dataset = open_dataset(folder)
    texts = {key: query.text for query in dataset.queries(dataset.tasks()[0]) for key in query.relevant}
    assert texts == {row["pth2"]: row["cleaned"] for row in edits}
    for row in json.loads((folder / "expected" / "pre_caption.json").read_text()):
        assert clean_edit(row["input"]) == " ".join(row["output"].split()), "they keep line ends and tabs"


def test_sampled_frames_are_covrs(folder: Path) -> None:
    sampled = json.loads((folder / "expected" / "sample_frames.json").read_text())["embs_sample_frames"]
    for num, places in sampled.items():
        assert sample_places(int(num)) == places


def as_array(data: bytes) -> NDArray[np.int16]:
    with PIL.Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(np.int16)


def test_frames_of_a_file_are_those_of_a_folder(folder: Path, from_files: Path) -> None:
    folders, files = open_dataset(folder), open_dataset(from_files)
    for ours, theirs in zip(folders.corpus(), files.corpus(), strict=True):
        assert (ours.key, ours.pools, ours.metadata) == (theirs.key, theirs.pools, theirs.metadata)
        assert len(ours.images) == len(theirs.images)
        assert all(isinstance(image, Path) for image in ours.images)
        assert all(isinstance(image, bytes) for image in theirs.images)
        shown, decoded = ([as_array(image_bytes(image)) for image in entry.images] for entry in (ours, theirs))
        distances = np.array([[np.abs(one - other).mean() for other in shown] for one in decoded])
        assert np.all(distances.diagonal() < distances.min(axis=1) + 1), "nothing moves in some videos"
        assert distances.diagonal().max() < 12, "the folder's frames are small JPEG files"


def test_a_query_is_the_middle_frame_that_covr_decodes(folder: Path, from_files: Path) -> None:
    rows = {row["video"]: row for row in map(json.loads, (folder / "expected/frames.jsonl").read_text().splitlines())}
    references = [row.reference for row in read_rows(folder / TEST_CSV)]
    for root, far in ((folder, 6.0), (from_files, 0.02)):
        dataset = open_dataset(root)
        for query, reference in zip(dataset.queries(dataset.tasks()[0]), references, strict=True):
            (image,) = query.images
            mean = as_array(image_bytes(image)).reshape(-1, 3).mean(axis=0)
            assert mean == pytest.approx(rows[reference]["middle_frame_mean_rgb"], abs=far)


@pytest.mark.parametrize("split", ["test", "val", "train"])
def test_a_service_that_knows_the_answers_scores_one(
    from_files: Path, folder: Path, tmp_path: Path, split: str
) -> None:
    root = from_files if split == "train" else folder
    knowing = KnowingService(open_dataset(root, split=split))
    with serving(knowing.service) as fake:
        arguments = ["--dataset", str(root), "--url", fake.url, "--output", str(tmp_path), "--split", split]
        assert main(["quality", *arguments, "--concurrency", "1"]) == 0
    report = json.loads((tmp_path / "results.json").read_text())
    assert [set(row["metrics"].values()) for row in report["results"]] == [{1.0}, {1.0}]
    assert report["warnings"] == []
    dataset = open_dataset(root, split=split)
    own = sum(bool(query.references) for query in dataset.queries(dataset.tasks()[0]))
    assert sum("exclude" in body for body in knowing.bodies) == own, "in one of two tasks"
    if split == "test":
        assert own > 0


def test_the_corpus_holds_frames_of_files_beside_it(from_files: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus.jsonl"
    assert main(["corpus", "--dataset", str(from_files), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 21
    assert {len(row["image"]) for row in rows} == {3, 4, 5, 15}
    for row in rows:
        assert all(Path(image).is_relative_to(tmp_path / "corpus_images") for image in row["image"])
        with PIL.Image.open(row["image"][0]) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
    assert main(["corpus", "--dataset", str(from_files), "--output", str(output), "--options", "pooling=middle"]) == 0
    assert {len(json.loads(line)["image"]) for line in output.read_text().splitlines()} == {1}


def test_frames_cannot_be_weighed_by_a_corpus_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", str(folder), "--output", str(tmp_path / "corpus.jsonl"), "--options", "pooling=query"]
    assert main(["corpus", *arguments]) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert "covr_test.csv:2: no corpus file can weigh the images of a key: store the keys in a running service" in said
    assert not (tmp_path / "corpus.jsonl").exists()


def test_missing_videos_stop_the_run_or_are_left_out(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = read_rows(copied / TEST_CSV)[3]
    for path in (copied / "datasets/WebVid/8M").glob(f"*/{victim.target}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    affected = sum(victim.target in (row.reference, row.target) for row in read_rows(copied / TEST_CSV))
    knowing = KnowingService(open_dataset(copied, options=["missing=skip"]))
    with serving(knowing.service) as fake:
        arguments = ["--dataset", str(copied), "--url", fake.url, "--output", str(tmp_path / "out")]
        assert main(["quality", *arguments]) == 2
        assert knowing.bodies == []
        said = capsys.readouterr().err
        assert main(["quality", *arguments, "--options", "missing=skip"]) == 0
    assert f"'{victim.target}' is not below" in said
    assert f"for {affected} of 21 rows; --options missing=skip leaves them out" in said
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["num_queries"] for row in report["results"]] == [21 - affected] * 2
    assert report["warnings"] == [f"1 of 21 keys and {affected} of 21 queries are left out, whose videos are missing"]
    assert main(["corpus", "--dataset", str(copied), "--output", str(tmp_path / "corpus.jsonl")]) == 2


def test_a_video_that_cannot_be_decoded_is_named(from_files: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(from_files, tmp_path / "covr"))
    dataset = open_dataset(root)
    first = read_rows(root / TEST_CSV)[0]
    for name in (first.reference, first.target):
        path = root / f"datasets/WebVid/8M/train/{name}.mp4"
        path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DatasetError, match=rf"video .*{first.target}\.mp4 cannot be decoded"):
        list(dataset.corpus())
    (image,) = dataset.queries(dataset.tasks()[0])[0].images
    with pytest.raises(DatasetError, match=rf"video .*{first.reference}\.mp4 cannot be decoded"):
        image_bytes(image)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": ""}, "scores must be a list of numbers, got ''"),
        ({"scores": "[np.float64(0.2)]"}, r"scores must be a list of numbers, got '\[np\.float64\(0\.2\)\]'"),
        ({"scores": "[1e999]"}, "scores must be a list of numbers"),
        ({"scores": "0.2"}, "scores must be a list of numbers"),
        ({"pth1": " "}, "pth1 is blank"),
        ({"pth2": ""}, "pth2 is blank"),
        ({"pth2": "03/1401685514"}, "target '03/1401685514' comes a second time, as in no test file"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(copied: Path, change: dict[str, str], said: str) -> None:
    path = copied / TEST_CSV
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[4].update(change)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    dataset = open_dataset(copied)
    with pytest.raises(DatasetFormatError, match=rf"webvid8m-covr_test\.csv:6: {said}"):
        dataset.queries(dataset.tasks()[0])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"pth1,pth2\n", r"csv:1: there is no column 'edit'"),
        (b"", r"csv:1: there is no column 'pth1'"),
        (b"pth1,pth2,edit\na,b\n", r"csv:2: the row has other cells than the header"),
        (b"pth1,pth2,edit\na,b,c,d\n", r"csv:2: the row has other cells than the header"),
        (b'pth1,pth2,edit\na,b,"c\n', r"csv: no csv: unexpected end of data"),
        (b"pth1,pth2,edit\n\xff,b,c\n", r"csv: not UTF-8"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "webvid8m-covr_test.csv"
    path.write_bytes(data)
    with pytest.raises(DatasetFormatError, match=said):
        read_rows(path)


def test_a_directory_without_the_splits_file_is_refused(copied: Path) -> None:
    (copied / TEST_CSV).unlink()
    dataset = open_dataset(copied)
    with pytest.raises(DatasetError, match=r"has no webvid8m-covr_test\.csv, neither in annotation/webvid-covr nor in"):
        dataset.queries(dataset.tasks()[0])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.text(max_size=60) | st.text(st.sampled_from('ab,"\n[]0.:\0'), max_size=60), scores=st.text(max_size=20))
def test_whatever_files_hold_is_read_or_named(tmp_path: Path, data: str, scores: str) -> None:
    with (tmp_path / "webvid8m-covr_test.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
        file.write("pth1,pth2,edit,scores\n")
        csv.writer(file).writerow(["a", "b", "c", scores.replace("\0", "")])
        file.write(data)
    dataset = WebVidCovr(tmp_path, "test", {"missing": "skip"})
    for read in (lambda: dataset.queries(dataset.tasks()[0]), lambda: list(dataset.corpus()), dataset.num_keys):
        with suppress(DatasetFormatError):
            read()
