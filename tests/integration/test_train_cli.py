"""`anykey-train` as a person runs it: a checkpoint at the end, or one line that says what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anykey.encoder.towers.architecture import write_open_clip_config
from anykey.training.__main__ import main
from tests.drawn_pairs import drawn_pairs, write_shard, write_tar
from tests.networks import TEXT, small_architecture

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a shard, a small architecture, and no settings in the environment."""
    for name in [name for name in os.environ if name.startswith("ANYKEY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    write_shard(tmp_path / "train-00000.tar", drawn_pairs(16))
    write_shard(tmp_path / "val.tar", drawn_pairs(6))
    write_open_clip_config(small_architecture(text={**TEXT, "layers": 1}), tmp_path)
    (tmp_path / "open_clip_config.json").rename(tmp_path / "small.json")
    return tmp_path


SMALL = ["--architecture", "small.json", "--batch-size", "8", "--num-epochs", "1", "--device", "cpu"]
DATA = ["--data", "train-{00000..00000}.tar"]


def run(*argv: str) -> int:
    """The exit code, whichever way the program ends."""
    try:
        return main(list(argv))
    except SystemExit as ended:
        return int(ended.code or 0)


def test_a_run_from_toml_environment_and_flags_as_a_process(folder: Path) -> None:
    (folder / "recipe.toml").write_text('architecture = "small.json"\nbatch_size = 8\nseed = 5\n')
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ANYKEY_TRAIN_NUM_EPOCHS": "1", "ANYKEY_TRAIN_SEED": "6"}
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "training",
        "--config",
        "recipe.toml",
        *DATA,
        "--val-data",
        "val.tar",
    ]
    done = subprocess.run(
        [*command, "--output", "runs/one", "--device", "cpu"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "checkpoint: runs/one/best (step 2)" in done.stdout or "checkpoint: runs/one/best (step 0)" in done.stdout
    settings = json.loads((folder / "runs" / "one" / "settings.json").read_text())["settings"]
    assert (settings["seed"], settings["num_epochs"], settings["batch_size"]) == (6, 1.0, 8)


def test_brackets_and_colons_in_a_path_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, *DATA, "--output", "y[/z]:bug:") == 0
    assert "checkpoint: y[/z]:bug:/best (step 2)" in capsys.readouterr().out


def test_a_second_run_says_it_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, *DATA, "--output", "run") == 0
    capsys.readouterr()
    assert run(*SMALL, *DATA, "--output", "run") == 0
    assert "run: finished already with these settings and data" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "no training data: set --data"),
        (["--data", "absent.tar"], 2, "absent.tar does not exist"),
        (["--data", "train-{00000..00003}.tar"], 2, "train-00001.tar does not exist"),
        (["--data", "absent-*.tar"], 2, "absent-*.tar does not exist"),
        (["--data", "empty.tar"], 2, "no pairs in empty.tar"),
        (["--data", "text.tar"], 2, "text.tar is no readable tar file"),
        (
            ["--data", "small.json"],
            2,
            "cannot read pairs from small.json: expected a folder of images, Karpathy's .json",
        ),
        (
            ["--data", "broken.tar"],
            2,
            "more than the share of 0.05 allowed; the first: broken.tar: sample 'red-circle'",
        ),
        ([*DATA, "--val-data", "absent.tar"], 2, "absent.tar does not exist"),
        ([*DATA, "--batch-size", "1"], 2, "setting 'batch_size': Input should be greater than or equal to 2 (got '1')"),
        ([*DATA, "--num-epochs", "inf"], 2, "setting 'num_epochs'"),
        ([*DATA, "--reading", "R9"], 2, "setting 'reading'"),
        ([*DATA, "--config", "absent.toml"], 2, "settings file absent.toml does not exist"),
        ([*DATA, "--start", "nowhere"], 1, "no checkpoint 'nowhere'"),
        ([*DATA, "--start", "hf-hub:a/b"], 1, "no checkpoint 'hf-hub:a/b'"),
        ([*DATA, "--architecture", "nosuch"], 1, "'nosuch' is no open_clip architecture"),
        ([*DATA, "--architecture", "hf-hub:a/b"], 1, "'hf-hub:a/b' is no open_clip architecture"),
        ([*DATA, "--image-weights", "absent.safetensors"], 1, "image weights absent.safetensors do not exist"),
        ([*DATA, "--device", "cuda:99"], 1, "device 'cuda:99' is not available"),
        ([*DATA, "--output", "val.tar/run"], 1, "Not a directory"),
        ([*DATA, "--start", "x", "--image-weights", "y"], 2, "--start already holds image weights"),
    ],
)
def test_a_mistake_ends_in_one_line_and_the_right_code(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    write_tar(folder / "empty.tar", [])
    (folder / "text.tar").write_text("not a tar")
    write_tar(folder / "broken.tar", [("red-circle.png", b"no image"), ("red-circle.txt", b"one")])
    base = ["--num-epochs", "1", "--batch-size", "8", "--device", "cpu", "--output", "run"]
    assert run(*base, *argv) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("anykey-train: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_an_unknown_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*DATA, "--learning-rat", "1") == 2
    assert capsys.readouterr().err == "anykey-train: error: unrecognized arguments: --learning-rat 1\n"


def test_an_unknown_toml_key_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "recipe.toml").write_text("learning_rat = 1\n")
    assert run(*DATA, "--config", "recipe.toml") == 2
    assert capsys.readouterr().err == "anykey-train: error: setting 'learning_rat': unknown setting\n"
