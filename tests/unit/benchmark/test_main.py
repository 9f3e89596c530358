"""The command line: settings from every source, errors in one line, and no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from anykey.benchmark.__main__ import main
from anykey.benchmark.commands import COMMANDS
from anykey.benchmark.settings import QualitySettings
from tests.unit.benchmark.conftest import small_settings

SMALL = [
    f"--{name.replace('_', '-')}={value}"
    for name, value in small_settings(Path("x")).model_dump(exclude={"config", "output", "redraw"}).items()
]


def test_the_dataset_is_drawn_from_the_command_line_whatever_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shapesworld", "--output", str(tmp_path / "y[/z]"), *SMALL]) == 0
    assert (tmp_path / "y[/z]/dataset.json").is_file()
    assert f"ShapesWorld is in {tmp_path / 'y[/z]'}\n" in capsys.readouterr().err


def test_help_shows_every_setting_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in COMMANDS.items():
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        for field, info in command.settings.model_fields.items():
            assert f"--{field.replace('_', '-')}" in shown or field.upper() in shown.split(), "a flag, or has a place"
            assert info.description
            assert " ".join(info.description.split()) in shown


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["shapesworld", "--seed", "-1"], "setting 'seed'", 2),
        (["shapesworld", "--image-size-px", "8"], "setting 'image_size_px'", 2),
        (["quality", "--cutoffs", "0"], "every cut-off must be at least 1", 2),
        (["quality", "--search", "fast"], "search", 2),
        (["quality", "--dataset", "no/such"], "dataset no/such: there is no such directory", 2),
        (["quality", "--dataset", "tests"], "tests has the files of no known dataset (mbeir", 2),
        (
            ["quality", "--dataset", "tests", "--format", "coco"],
            "no dataset format 'coco', expected auto or one of mbeir",
            2,
        ),
        (
            ["quality", "--dataset", "tests", "--format", "mbeir", "--split", "dev"],
            "M-BEIR has no split 'dev', it has: test",
            2,
        ),
        (["load", "--rates", "10,0"], "every rate must be above 0", 2),
        (["load", "--repeat-share", "1"], "setting 'repeat_share'", 2),
        (["load", "--log", "no-such.jsonl"], "log no-such.jsonl: No such file or directory", 2),
        (["from-pairs", "--pairs", "no-such.tar", "--output", "x", "--name", "farm"], "no-such.tar does not exist", 2),
        (["from-pairs", "--pairs", "no-such.tar", "--output", "x", "--name", "Farm 1"], "setting 'name'", 2),
        (["speed"], "unknown command 'speed', expected one of: datasets, fetch, corpus, store, quality, ", 2),
    ],
)
def test_wrong_input_ends_in_one_line(
    arguments: list[str], said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("anykey-bench")
    assert said in error


def test_an_endpoint_that_is_down_is_an_environment_error(
    shapesworld_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", str(shapesworld_dir), "--output", str(tmp_path), "--ready-timeout-s", "0"]
    assert main(["quality", "--url", "http://127.0.0.1:1", *given]) == 1
    assert "nothing answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_environment_and_file_set_what_flags_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anykey.program.settings import load_settings

    config = tmp_path / "bench.toml"
    config.write_text('cutoffs = [3]\nconcurrency = 2\nurl = "http://file"\n', encoding="utf-8")
    monkeypatch.setenv("ANYKEY_BENCH_QUALITY_URL", "http://environment")
    monkeypatch.setenv("ANYKEY_BENCH_QUALITY_CONCURRENCY", "3")
    chosen = load_settings(QualitySettings, "p", ["--config", str(config), "--concurrency", "4"])
    assert (chosen.cutoffs, chosen.url, chosen.concurrency) == ([3], "http://environment", 4)


def test_each_command_has_an_environment_prefix_of_its_own() -> None:
    prefixes = {name: command.settings.model_config.get("env_prefix") for name, command in COMMANDS.items()}
    assert prefixes == {name: f"ANYKEY_BENCH_{name.replace('-', '_').upper()}_" for name in COMMANDS}


def test_lists_are_given_with_commas_sorted_and_once() -> None:
    from anykey.program.settings import load_settings

    chosen = load_settings(QualitySettings, "p", ["-k", "10,1,10", "--tasks", "0,mscoco_task3", "--pools", "local"])
    assert (chosen.cutoffs, chosen.tasks, chosen.pools) == ([1, 10], ["0", "mscoco_task3"], ["local"])


OTHERS = ("anykey.encoder", "anykey.training", "anykey.index", "anykey.service")


MODULES = ("", ".metrics", ".quality", ".load.command", ".shapesworld.write", ".pairs", ".store")


def test_the_benchmark_loads_neither_torch_nor_any_other_package_of_ours() -> None:
    names = ", ".join(f"anykey.benchmark{module}" for module in MODULES)
    loaded = f"import sys, {names}, anykey.sources.pairs; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout
    assert not set(output.split()) & {"torch", "faiss", "open_clip", *OTHERS}
