"""A run folder tells what went in; the digest changes exactly when the result could."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from anykey.training.errors import InvalidRecipeError
from anykey.training.report import About
from anykey.training.run_folder import (
    Effort,
    RunFolder,
    effort,
    finished_run,
    publishable,
    refuse_another_run,
    run_digest,
)
from anykey.training.settings import TrainSettings
from anykey.training.table import BadRow
from tests.full_disk import no_file_beyond
from tests.training_runs import make_settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.tar"
    path.write_bytes(b"data")
    return path


def digest(data: Path, **changes: object) -> str:
    return run_digest(make_settings(data, data.parent / "run", **changes))


def test_runs_of_the_first_release_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their digest, of the settings that there were; one that came since must not change it by doing what was done."""
    (tmp_path / "pairs").mkdir()
    for name in ("a.png", "a.txt"):
        (tmp_path / "pairs" / name).write_bytes(b"x")
        os.utime(tmp_path / "pairs" / name, ns=(10**18, 10**18))
    monkeypatch.chdir(tmp_path)
    settings = TrainSettings(data=["pairs"], output=Path("run"), architecture="anykey-tiny", clip_weight=0.0)
    assert run_digest(settings) == "a119d2b47dd71e307d6316ff5b8d55d350be2dcc8e241aa804a90c4812b1aaa6"


def test_equal_settings_and_data_have_equal_digests(data: Path) -> None:
    assert digest(data) == digest(data)


@pytest.mark.parametrize("changes", [{"seed": 1}, {"learning_rate": 2e-3}, {"reading": "R3"}, {"num_epochs": 3}])
def test_a_changed_setting_changes_the_digest(data: Path, changes: dict[str, object]) -> None:
    assert digest(data, **changes) != digest(data)


@pytest.mark.parametrize("changes", [{"workers": 2}, {"cache_images_bytes": 0}, {"feature_cache": "cache"}])
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


def test_the_report_says_how_many_pairs_and_minutes_the_steps_took(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunFolder(run, make_settings(data, run), "abc") as folder:
        folder.log(0, 0, {"val/gap/i-t": 1.0})
        folder.log(10, 1800, {"train/pairs_per_s": 20.0})
        folder.log(20, 3000, {"train/pairs_per_s": 10.0})
        folder.log(20, 3000, {"val/gap/i-t": 0.5})
        folder.finish({"step": 20})
    page = (run / "report.html").read_text()
    assert '<tr><th scope="row">pairs seen</th><td>3,000</td></tr>' in page
    assert '<tr><th scope="row">training steps</th><td>3.5 minutes, ' in page
    assert effort(tmp_path / "none") == Effort(0, 0.0)


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


@pytest.mark.parametrize("name", ["report.html", "events.out.tfevents.1.mine", "best/notes.txt", "metrics.jsonl"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_no_run_wrote_are_not_lost(data: Path, tmp_path: Path, name: str, overwrite: bool) -> None:
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    settings = make_settings(data, tmp_path / "mine", overwrite=overwrite)
    with pytest.raises(InvalidRecipeError, match=rf"mine holds {name.partition('/')[0]}, and no settings\.json"):
        refuse_another_run(tmp_path / "mine", settings, "abc")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("content", ['{"editor.fontSize": 12}', '{"settings": {}}', '{"digest": "a"}', "[]", "half {"])
@pytest.mark.parametrize("beside", ["metrics.jsonl", None])
@pytest.mark.parametrize("overwrite", [False, True])
def test_settings_of_another_program_make_no_folder_a_runs(
    data: Path, tmp_path: Path, content: str, beside: str | None, overwrite: bool
) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    mine = {"settings.json": content} | ({beside: "mine"} if beside else {})
    for name, text in mine.items():
        (output / name).write_text(text)
    with pytest.raises(InvalidRecipeError, match=rf"mine holds {', '.join(mine)}, and no settings\.json with a digest"):
        refuse_another_run(output, make_settings(data, output, overwrite=overwrite), "abc")
    assert {path.name: path.read_text() for path in output.iterdir()} == mine


def test_a_full_disk_takes_no_stopped_run_with_it(data: Path, tmp_path: Path) -> None:
    settings = make_settings(data, tmp_path / "run")
    with RunFolder(tmp_path / "run", settings, "abc") as folder:
        folder.states.mkdir(parents=True)
    with no_file_beyond(100), pytest.raises(OSError, match="File too large"):
        RunFolder(tmp_path / "run", settings, "abc")
    refuse_another_run(tmp_path / "run", settings, "abc")  # the folder still knows whose it is
    with RunFolder(tmp_path / "run", settings, "abc") as folder:
        assert folder.states.is_dir()


def test_a_damaged_picture_of_the_start_keeps_no_run_from_ending(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    with RunFolder(run, make_settings(data, run), "abc") as folder:
        (run / "before.npz").write_bytes(b"half")
        folder.checkpoint_dir("best").mkdir(parents=True)
        (folder.checkpoint_dir("best") / "encoder.json").write_text("{}")
        folder.finish({"step": 1}, About(judging="By all."))
    assert finished_run(run, "abc") == {"digest": "abc", "step": 1}
    assert "before.npz: no snapshot of a run, or damaged" in caplog.text
    assert "was not kept, or is damaged" in (run / "report.html").read_text()


def test_a_report_that_cannot_be_written_takes_no_checkpoint_with_it(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunFolder(run, make_settings(data, run), "abc") as folder:
        folder.checkpoint_dir("best").mkdir(parents=True)
        (folder.checkpoint_dir("best") / "encoder.json").write_text("{}")
        with no_file_beyond(1000), pytest.raises(OSError, match="File too large"):
            folder.finish({"step": 1})
    assert (run / "best" / "encoder.json").read_text() == "{}"
    assert finished_run(run, "abc") is None


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


def id_after_a_step(data: Path, run: Path, digest: str = "abc", *, is_whole: bool = False) -> str:
    """The id of a run that logs one step and keeps a state, then stops or ends."""
    with RunFolder(run, make_settings(data, run), digest) as folder:
        folder.log(1, 8, {"train/loss": 2.0})
        folder.states.mkdir(parents=True, exist_ok=True)
        drawn = folder.tracking_id()
        if is_whole:
            folder.finish({"step": 1})
    return drawn


def test_a_run_that_goes_on_keeps_its_id(data: Path, tmp_path: Path) -> None:
    assert len({id_after_a_step(data, tmp_path / "run") for _ in range(3)}) == 1


def test_runs_that_do_not_go_on_have_other_ids(data: Path, tmp_path: Path) -> None:
    ids = [id_after_a_step(data, tmp_path / "a"), id_after_a_step(data, tmp_path / "b")]
    shutil.rmtree(tmp_path / "b")
    ids.append(id_after_a_step(data, tmp_path / "b"))
    ids.append(id_after_a_step(data, tmp_path / "b", "other settings", is_whole=True))
    ids.append(id_after_a_step(data, tmp_path / "b", "other settings"))
    assert len(set(ids)) == 5


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs the extra wandb, which is not installed")
def test_a_run_that_goes_on_goes_on_at_wandb(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B names the folder of what it would send after the run's id."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    for step in (1, 2):
        with RunFolder(run, make_settings(data, run, wandb_project="anykey"), "abc") as folder:
            folder.log(step, 8, {"train/loss": 2.0})
            folder.states.mkdir(parents=True, exist_ok=True)
            drawn = folder.tracking_id()
    assert {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")} == {drawn}
