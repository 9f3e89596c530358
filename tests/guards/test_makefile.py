"""Each variable of the Makefile reaches its command as one word, whatever is in it."""

import shlex
import subprocess

import pytest

from tests.guards.checkout import ROOT

HOSTILE = '/my shop\'s "c"; touch `here` && (exit 7) # *?~\\.jsonl'
VARIABLES = {
    "train": ("DATA", "VAL_DATA", "CONFIG", "RUN"),
    "index": ("CORPUS", "CHECKPOINT", "INDEX"),
    "serve": ("CHECKPOINT", "INDEX", "PORT"),
    "bench": ("DATASET", "URL", "REPORT"),
    "demo": ("CHECKPOINT", "INDEX", "PORT", "DATASET", "URL", "REPORT", "CORPUS"),
    "study": ("DATA", "VAL_DATA", "TEST_DATA"),
    "perf-index": ("PEERS",),
    "perf-service": ("PEERS",),
    "perf-requests": ("BEFORE", "CHECKPOINT"),
    "data": ("DEMO_DATASET",),
    "clean": ("PEERS", "CLIENTS", "DEMO_DATASET"),
    "clients": ("CLIENTS",),
    "setup": ("PYTHON",),
}


def commands(target: str, *variables: str) -> str:
    """What make would run for the target alone: what it needs is taken to be there."""
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", target, *variables]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("target", "names"), VARIABLES.items(), ids=list(VARIABLES))
@pytest.mark.parametrize("value", ["/my shop/c.jsonl", HOSTILE], ids=["space", "hostile"])
def test_a_variable_is_one_word_of_its_command(target: str, names: tuple[str, ...], value: str) -> None:
    for name in names:
        if name in ("PEERS", "CLIENTS") and value == HOSTILE:
            value = "/my shop's peers"  # a folder that make has targets in, so it cannot hold what make reads
        words = shlex.split(commands(target, f"{name}={value}").replace("\\\n", " "), comments=False)
        reached = [word for word in words if word.startswith(value)]
        assert reached, f"{name} reaches no command of {target} whole"
        assert not [word for word in words if word.startswith("/my") and not word.startswith(value)], words


def test_a_corpus_whose_path_ends_like_the_demos_is_not_the_demos() -> None:
    mine = commands("train", "DATA=/my data/shapesworld/train/a.tar")
    assert "anykey-bench shapesworld" not in mine
    assert "runs/mine" in mine
    assert "--overwrite" not in mine
    assert "anykey-bench shapesworld" in commands("train")
    assert "indexes/mine" in commands("index", "CORPUS=/my data/shapesworld")
