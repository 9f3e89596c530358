"""`anykey-encoder` makes checkpoints and says what they are; what fails ends with one line."""

import json
from pathlib import Path

import pytest

from anykey.encoder import Encoder
from anykey.encoder.__main__ import main
from tests.models import tiny_checkpoint
from tests.towers_of_others import TINYCLIP, write_clip_directory, write_tinyclip
from tests.visualized import Toy

Output = pytest.CaptureFixture[str]


def failed(argv: list[str], code: int, said: str, capsys: Output) -> None:
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"anykey-encoder {argv[0]}: error: ")
    assert err.count("\n") == 1
    assert said in err


def test_a_directory_is_converted_and_described(tmp_path: Path, capsys: Output) -> None:
    source = write_clip_directory(tmp_path / "toy-clip", "config-quick_gelu.json")
    assert main(["convert", str(source), "--output", str(tmp_path / "made"), "--fusion", "unit"]) == 0
    identity = Encoder.load(tmp_path / "made").fingerprint
    made = f"wrote {tmp_path / 'made'}: Hugging Face's CLIP, toy-clip, width 32\n{identity}\n"
    assert capsys.readouterr().out == made

    assert main(["info", str(tmp_path / "made"), "--as-json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {name: facts[name] for name in ("family", "name", "width", "context", "fusion", "fingerprint")} == {
        "family": "towers", "name": "toy-clip", "width": 32, "context": 77, "fusion": "unit", "fingerprint": identity,
    }  # fmt: skip
    assert facts["activation"] == "QuickGELU"
    assert facts["parameters"] == {"image": 96624, "text": 298135}
    assert facts["images"]["interpolation"] == "bicubic"
    assert facts["loads_in"] == "AnyKey, open_clip"
    assert facts["provenance"]["layout"] == "Hugging Face's CLIP"

    assert main(["info", str(source)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (lines["width"], lines["fusion"], lines["computes"]) == ("32", "raw", "fp32 by torch on cpu")
    assert main(["info", str(source), "--precision", "int8"]) == 0
    assert "computes        int8 by torch on cpu\n" in capsys.readouterr().out
    failed(["info", str(source), "--precision", "fp16"], 1, "precision fp16 cannot be had on cpu", capsys)


def test_a_pruned_network_is_converted_with_its_configuration(tmp_path: Path, capsys: Output) -> None:
    source = str(write_tinyclip("auto", tmp_path / "TinyCLIP-auto.pt"))
    output, config = str(tmp_path / "made"), str(TINYCLIP / "auto" / "config.json")
    failed(["convert", source, "--output", output], 1, "--architecture FILE.json", capsys)
    assert main(["convert", source, "--output", output, "--architecture", config]) == 0
    assert "only AnyKey loads it" in capsys.readouterr().out
    assert main(["info", output]) == 0
    assert "loads in        AnyKey\n" in capsys.readouterr().out


def test_a_checkpoint_is_described_and_can_be_written_anew(tmp_path: Path, capsys: Output) -> None:
    tiny = tiny_checkpoint(tmp_path)
    assert main(["convert", str(tiny), "--output", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert Encoder.load(tmp_path / "again").fingerprint == Encoder.load(tiny).fingerprint


def test_what_is_there_is_not_replaced(tmp_path: Path, capsys: Output) -> None:
    tiny = tiny_checkpoint(tmp_path)
    failed(["convert", str(tiny), "--output", str(tmp_path)], 2, "exists already", capsys)
    assert list(tmp_path.iterdir()) == [tiny]


def test_a_source_that_is_none_ends_with_one_line(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "page.pt").write_text("<html>")
    failed(["convert", str(tmp_path / "page.pt"), "--output", str(tmp_path / "o")], 1, "a page of a web site", capsys)
    failed(["info", str(tmp_path / "none")], 1, "no checkpoint", capsys)
    failed(["info"], 2, "SOURCE", capsys)
    assert not (tmp_path / "o").exists()


def test_vistas_weights_are_converted_by_their_own_family(toy: Toy, tmp_path: Path, capsys: Output) -> None:
    source = toy.published("base", tmp_path / "vista")
    assert main(["convert", str(source), "--output", str(tmp_path / "made")]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path / 'made'}: VISTA, native fusion\nsha256:")
    assert Encoder.load(tmp_path / "made").fingerprint == Encoder.load(source).fingerprint
    assert main(["info", str(tmp_path / "made")]) == 0
    assert "family          fusion\n" in capsys.readouterr().out
    again = ["convert", str(tmp_path / "made"), "--output", str(tmp_path / "x")]
    failed(again, 2, "is a checkpoint of AnyKey already", capsys)
    weighed = ["convert", str(source), "--output", str(tmp_path / "x"), "--fusion", "unit"]
    failed(weighed, 2, "holds VISTA's weights, which go without --fusion", capsys)
