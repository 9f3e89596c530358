"""A run folder tells what went in; the digest changes exactly when the result could."""

import json
from pathlib import Path

import pytest

from tests.training_runs import make_settings
from training.run_folder import RunFolder, finished_run, publishable, run_digest
from training.table import BadRow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.tar"
    path.write_bytes(b"data")
    return path


def digest(data: Path, **changes: object) -> str:
    return run_digest(make_settings(data, data.parent / "run", **changes))


def test_equal_settings_and_data_have_equal_digests(data: Path) -> None:
    assert digest(data) == digest(data)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"learning_rate": 2e-3}, {"reading": "R3"}, {"num_epochs": 3}])
def test_a_changed_setting_changes_the_digest(data: Path, changes: dict[str, object]) -> None:
    assert digest(data, **changes) != digest(data)


@pytest.mark.parametrize("changes", [{"num_workers": 2}, {"cache_images_bytes": 0}, {"feature_cache": "cache"}])
def test_settings_that_cannot_change_the_result_do_not_count(data: Path, changes: dict[str, object]) -> None:
    assert digest(data, **changes) == digest(data)


def test_the_run_folders_own_place_does_not_count(data: Path) -> None:
    there = run_digest(make_settings(data, data.parent / "elsewhere"))
    assert there == digest(data)


def test_changed_data_change_the_digest(data: Path) -> None:
    before = digest(data)
    data.write_bytes(b"longer data")
    assert digest(data) != before


def test_changed_weights_or_starts_under_the_same_name_change_the_digest(data: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    files = {
        "image_weights": tmp_path / "trunk.safetensors",
        "architecture": tmp_path / "mine.json",
        "start": start / "encoder.json",
    }
    values = {**files, "architecture": str(files["architecture"]), "start": str(start)}
    for name, path in files.items():
        path.write_bytes(b"one")
        before = digest(data, **{name: values[name]})
        path.write_bytes(b"three")
        assert digest(data, **{name: values[name]}) != before, name


def test_weights_beside_an_architecture_count_as_a_start(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    before = digest(data, start=f"anykey-tiny@{path}")
    path.write_bytes(b"three")
    assert digest(data, start=f"anykey-tiny@{path}") != before


def finished_folder(data: Path, output: Path, content: str = "{}") -> None:
    settings = make_settings(data, output)
    with RunFolder(output, settings, "abc") as folder:
        folder.log(10, 80, {"train/loss": 1.5})
        folder.log_bad_rows([BadRow("a.tar: sample 'x'", "no caption")])
        folder.log_bad_rows([])
        for name in ("best", "last"):
            folder.checkpoint_dir(name).mkdir(parents=True)
            (folder.checkpoint_dir(name) / "encoder.json").write_text(content)
        folder.finish({"step": 10})


def test_what_went_in_and_came_out_is_written(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    finished_folder(data, run)
    assert json.loads((run / "settings.json").read_text())["settings"]["batch_size"] == 8
    assert json.loads((run / "metrics.jsonl").read_text()) == {"step": 10, "pairs": 80, "train/loss": 1.5}
    assert json.loads((run / "bad_rows.jsonl").read_text()) == {"where": "a.tar: sample 'x'", "reason": "no caption"}
    assert len(list(run.glob("events.out.tfevents.*"))) == 1


def test_what_is_published_of_the_settings_holds_no_secrets(data: Path) -> None:
    changes = {"data": ["https://me:secret@host/a.tar?signature=secret"], "val_data": ["s3://me:secret@bucket/b.tar"]}
    settings = make_settings(data, data.parent / "run", **changes)
    shown = {"data": ["https://host/a.tar"], "val_data": ["s3://bucket/b.tar"]}
    assert publishable(settings) == settings.model_dump(mode="json") | shown


def test_a_stopped_run_whose_names_hold_secrets_goes_on(data: Path, tmp_path: Path) -> None:
    settings = make_settings(data, tmp_path / "run", data=["https://me:secret@host/a.tar"])
    with RunFolder(tmp_path / "run", settings, "abc") as stopped:
        stopped.states.mkdir(parents=True)
        stopped.log(1, 8, {"train/loss": 2.0})
    with RunFolder(tmp_path / "run", settings, "abc") as folder:
        assert folder.states.is_dir()
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_starting_over_clears_the_logs_and_the_mark_of_an_end(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished_folder(data, run)
    with RunFolder(run, make_settings(data, run), "def") as folder:
        assert not (run / "metrics.jsonl").exists()
        assert not (run / "bad_rows.jsonl").exists()
        assert not (run / "finished.json").exists()
        assert (run / "best" / "encoder.json").exists()
        folder.log(1, 8, {"train/loss": 2.0})
    assert len(list(run.glob("events.out.tfevents.*"))) == 1


def test_an_earlier_runs_checkpoint_stays_until_the_next_one_ends(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished_folder(data, run, "first")
    with RunFolder(run, make_settings(data, run), "def") as stopped:
        stopped.checkpoint_dir("best").mkdir(parents=True)
    assert (run / "best" / "encoder.json").read_text() == "first"
    finished_folder(data, run, "second")
    assert (run / "best" / "encoder.json").read_text() == "second"
    assert not (run / "unfinished").exists()


def test_a_finished_run_is_found_by_its_digest_only(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert finished_run(run, "abc") is None
    finished_folder(data, run)
    assert finished_run(run, "abc") == {"digest": "abc", "step": 10}
    assert finished_run(run, "other") is None
    (run / "best" / "encoder.json").unlink()
    assert finished_run(run, "abc") is None


@pytest.mark.parametrize("content", ["{", "[]", "3", ""])
def test_a_damaged_mark_means_unfinished(data: Path, tmp_path: Path, content: str) -> None:
    finished_folder(data, tmp_path / "run")
    (tmp_path / "run" / "finished.json").write_text(content)
    assert finished_run(tmp_path / "run", "abc") is None
