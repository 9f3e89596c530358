"""Protects whoever names a bad encoder: each command says in one line what is wrong with it, and ends with code 1."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from anykey.encoder.__main__ import main as encoder
from anykey.index.__main__ import main as index
from anykey.service.errors import StartupError
from anykey.service.indexes.parts import load_encoder
from anykey.service.settings import ServiceSettings
from anykey.training.__main__ import main as train
from tests.drawn_pairs import drawn_pairs, write_shard
from tests.towers_of_others import write_clip_directory


def bad_weights(folder: Path) -> tuple[Path, str]:
    (folder / "weights.pt").write_text("<html>not found</html>")
    return folder / "weights.pt", "weights.pt is damaged or no weights file: it is a page of a web site"


def another_layout(folder: Path) -> tuple[Path, str]:
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder / "bert", "bert is no encoder of two towers: its config.json is of a bert model"


def no_tokenizer(folder: Path) -> tuple[Path, str]:
    source = write_clip_directory(folder / "clip")
    for path in source.iterdir():
        if path.name not in ("config.json", "preprocessor_config.json", "model.safetensors"):
            path.unlink()
    return source, "clip has no tokenizer"


BAD = pytest.mark.parametrize("make", [bad_weights, another_layout, no_tokenizer])
Make = Callable[[Path], tuple[Path, str]]
Output = pytest.CaptureFixture[str]


def fails(command: Callable[[list[str]], int], capsys: Output, *argv: str | Path) -> str:
    """The last line of a command that fails; above it there may be what it did until then."""
    assert command(list(map(str, argv))) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert err.count("error: ") == 1
    return err.splitlines()[-1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a corpus and pairs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"key": "k", "text": "a text"}\n')
    write_shard(tmp_path / "train.tar", drawn_pairs(8))
    return tmp_path


@BAD
def test_one_line_says_what_a_bad_source_is(folder: Path, make: Make, capsys: Output) -> None:
    source, said = make(folder)
    assert said in fails(encoder, capsys, "info", source)
    assert said in fails(encoder, capsys, "convert", source, "--output", "made")
    for job in ("build", "embed"):
        arguments = ("--corpus", "corpus.jsonl", "--checkpoint", source, "--output", "made")
        assert said in fails(index, capsys, job, *arguments)
    assert said in fails(train, capsys, "--data", "train.tar", "--start", source, "--output", "made")
    with pytest.raises(StartupError, match=said) as error:
        load_encoder(ServiceSettings(checkpoint=str(source)))
    assert "\n" not in str(error.value)
    assert not (folder / "made").exists()


def test_one_line_says_that_a_precision_is_of_gpus(folder: Path, tiny_checkpoint: Path, capsys: Output) -> None:
    said = "precision fp16 cannot be had on cpu"
    asked = ("--device", "cpu", "--precision", "fp16")
    assert said in fails(encoder, capsys, "info", tiny_checkpoint, *asked)
    for job in ("build", "embed"):
        arguments = ("--corpus", "corpus.jsonl", "--checkpoint", tiny_checkpoint, "--output", "made")
        assert said in fails(index, capsys, job, *arguments, *asked)
    with pytest.raises(StartupError, match=said):
        load_encoder(ServiceSettings(checkpoint=str(tiny_checkpoint), device="cpu", precision="fp16"))
