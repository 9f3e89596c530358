"""The command: what a person types, sees, and gets as exit code. The encoder is real, its weights are random."""

import json
import os
from pathlib import Path

import pytest

from anykey.index import FaissIndex
from anykey.index.__main__ import main
from anykey.index.publish.directory import WritableDirectory
from anykey.index.settings import BuildSettings
from tests.factories import mixed_corpus, write_jsonl
from tests.live_index import make_index, new_keys
from tests.models import tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_build_then_info_then_build_again(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = mixed_corpus(tmp_path, 6)
    with corpus.open("a") as file:
        file.write('{"text": "no key"}\n')
    arguments = ("build", "--corpus", corpus, "--checkpoint", checkpoint, "--output", tmp_path / "i")

    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert f"skipped {corpus}:7: no key" in out
    assert f"1 bad rows skipped, listed in {tmp_path}/i/versions/1/bad_rows.jsonl" in out
    assert "published version 1" in out
    assert "6 keys (2 text, 2 image, 2 fused); 6 embedded in this run, 0 kept" in out
    assert "embedding: 6 of 6" in err

    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert "is up to date: version 1, 6 keys" in out
    assert "embedding" not in err

    code, out, _ = run(capsys, "info", "--index", tmp_path / "i")
    assert code == 0
    assert "anykey-tiny" in out
    assert "even (3), odd (3)" in out
    assert "computed in fp" in out

    code, out, _ = run(capsys, "info", "--index", tmp_path / "i", "--as-json")
    shown = json.loads(out)
    assert (shown["index"]["num_keys"], shown["manifest"]["num_keys"]) == (6, 6)


def test_unread_stretch_and_keys_that_would_go_are_said_and_give_their_exit_codes(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"key": f"k{number}", "text": "a text"} for number in range(120)]
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    arguments = ("build", "--corpus", corpus, "--checkpoint", checkpoint, "--output", tmp_path / "i")
    assert run(capsys, *arguments)[0] == 0
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:100]) + '{"key": "k1')

    for flags in ([], ["--dry-run"]):
        code, out, _ = run(capsys, *arguments, *flags)
        assert code == 3
        assert f"skipped {corpus}:101: not JSON" in out
        assert "(which keys are named there is unknown)" in out
        assert "20 keys that may be named where the corpus cannot be read stay as they were indexed" in out

    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:100]))
    for flags in ([], ["--dry-run"]):
        code, out, err = run(capsys, *arguments, *flags)
        assert (code, "--allow-removal" in err, err.count("error")) == (2, True, 1)
    assert "compared with 120 keys of earlier builds: 0 new, 0 changed, 20 to be removed; nothing was done" in out
    code, out, err = run(capsys, *arguments, "--allow-removal")
    assert (code, "0 embedded in this run, 100 kept, 20 removed" in out) == (0, True)
    assert "compared with 120 keys of earlier builds: 0 new, 0 changed, 20 to be removed" in err


def test_dry_run_does_not_say_that_keys_of_another_encoder_stay(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = mixed_corpus(tmp_path / "c", 3)
    arguments = ("build", "--corpus", corpus, "--output", tmp_path / "i", "--allow-removal")
    assert run(capsys, *arguments, "--checkpoint", checkpoint)[0] == 0
    (tmp_path / "c" / "images").rename(tmp_path / "away")

    other = tiny_checkpoint(tmp_path, seed=1)
    for flags in (["--dry-run"], []):
        code, out, err = run(capsys, *arguments, "--checkpoint", other, *flags)
        assert (code, "stay as they were indexed" in out) == (0, False)
        assert "2 to be removed" in out + err


def test_built_index_finds_each_key_by_its_own_vector(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from anykey.encoder import Encoder, Item

    write_jsonl(tmp_path / "c.jsonl", [{"key": word, "text": word} for word in ("red", "green", "blue")])
    run(capsys, "build", "--corpus", tmp_path / "c.jsonl", "--checkpoint", checkpoint, "--output", tmp_path / "i")
    encoder = Encoder.load(checkpoint)

    with FaissIndex.open(tmp_path / "i") as index:
        index.manifest.check_encoder(encoder.fingerprint, encoder.width, encoder.fusion)
        (hits,) = index.search(encoder.encode([Item("green")]), 1)
    assert hits[0].key == "green"
    assert hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_texts_longer_than_the_models_context_are_counted(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["red " * 75, "red " * 76, "blue " * 300, "<end_of_text> a red circle"]
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": str(n), "text": text} for n, text in enumerate(texts)])
    said = "2 texts are longer than the encoder's context: their ends are not in the vectors"
    arguments = ("--corpus", corpus, "--checkpoint", checkpoint, "--output")
    assert said in run(capsys, "build", *arguments, tmp_path / "i")[1]
    assert said not in run(capsys, "build", *arguments, tmp_path / "i")[1]  # nothing is embedded
    for _ in range(2):  # a shard remembers
        assert said in run(capsys, "embed", *arguments, tmp_path / "shards", "--shard-keys", "3")[1]


def test_several_corpora_follow_one_flag(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [{"key": name, "text": name}]) for name in "ab"]

    code, out, _ = run(capsys, "build", "--corpus", *paths, "--checkpoint", checkpoint, "--output", tmp_path / "i")

    assert (code, "2 keys (2 text)" in out) == (0, True)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--corpus": "nowhere.jsonl"}, 2, "nowhere.jsonl does not exist"),
        ({"--batch-size": "0"}, 2, "setting 'batch_size'"),
        ({"--checkpoint": "nowhere"}, 1, "no checkpoint 'nowhere'"),
        ({"--images": "link"}, 2, "setting 'images'"),
        ({"--output": "file"}, 1, "file"),
    ],
)
def test_bad_settings_end_as_one_line(
    tmp_path: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no directory")
    write_jsonl(tmp_path / "c.jsonl", [{"key": "k", "text": "t"}])
    chosen = {"--corpus": "c.jsonl", "--checkpoint": str(checkpoint), "--output": "i", **changes}

    exit_code, _, err = run(capsys, "build", *(part for pair in chosen.items() for part in pair))

    assert exit_code == code
    assert err.splitlines()[-1].startswith("anykey-index build: error: ")
    assert message in err
    assert "Traceback" not in err


def test_strict_ends_as_one_line_and_publishes_nothing(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "k", "text": "t"}, {"text": "t"}])

    code, _, err = run(
        capsys, "build", "--corpus", corpus, "--checkpoint", checkpoint, "--output", tmp_path / "i", "--strict"
    )

    assert code == 2
    assert f"anykey-index build: error: {corpus}:2: no key" in err
    assert WritableDirectory(tmp_path / "i").current() is None


def test_info_without_an_index_says_how_to_build_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "info", "--index", tmp_path)

    assert code == 1
    assert "build one with `anykey-index build" in err


def test_settings_come_from_the_environment_too(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"key": "k", "text": "t"}])
    for name, value in {"CORPUS": corpus, "CHECKPOINT": checkpoint, "OUTPUT": tmp_path / "i"}.items():
        monkeypatch.setenv(f"ANYKEY_INDEX_{name}", str(value))

    assert run(capsys, "build")[0] == 0


def test_help_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["build", "--help"])

    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(flag in out for flag in ("--corpus", "--strict", "--images {copy,reference}", "--decode-threads"))


def test_an_index_is_kept_moved_and_mended_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index_dir = make_index(tmp_path / "i", new_keys(5))
    with FaissIndex.open(index_dir, writable=True) as index:
        index.delete(["k0"])

    code, out, _ = run(capsys, "info", "--index", index_dir)
    assert code == 0
    assert "keys        4 (1 text, 2 image, 1 fused)" in out
    assert "changes     1 since then, of 7" in out
    out = run(capsys, "compact", "--index", index_dir)[1]
    assert "version 3, 4 keys (1 text, 2 image, 1 fused); 1 changes folded in\n" in out
    assert "structure   exact" in out
    assert "measured    recall@10 1.0000" in out
    code, out, _ = run(capsys, "compact", "--index", index_dir, "--calibrate", "modality-mean", "--recall", "0.9")
    assert (code, "version 4, 4 keys" in out) == (0, True)
    assert "calibration modality-mean" in run(capsys, "info", "--index", index_dir)[1]

    assert run(capsys, "snapshot", "--index", index_dir, "--output", tmp_path / "i.tar")[0] == 0
    assert run(capsys, "restore", "--output", tmp_path / "restored", "--snapshot", tmp_path / "i.tar")[0] == 0
    assert "4 keys written" in run(capsys, "export", "--index", index_dir, "--output", tmp_path / "out")[1]
    shards = [tmp_path / "out", tmp_path / "out" / "keys-00000.parquet"]  # one file under two names counts once
    code, out, _ = run(capsys, "load", "--index", tmp_path / "loaded", "--shards", *shards)
    assert (code, out) == (0, f"4 keys stored in {tmp_path / 'loaded'}\n")
    code, out, _ = run(capsys, "export", "--index", index_dir, "--output", tmp_path / "faiss", "--form", "faiss")
    assert (code, sorted(path.name for path in (tmp_path / "faiss").iterdir())) == (
        0,
        ["images", "keys.jsonl", "vectors.faiss"],
    )

    for name in ("i", "restored", "loaded"):
        assert run(capsys, "verify", "--index", tmp_path / name)[:2] == (0, f"{tmp_path / name} is sound\n")
    (index_dir / "versions" / "4" / "rows.npy").write_bytes(b"rubbish")
    code, out, _ = run(capsys, "verify", "--index", index_dir)
    assert code == 1
    assert "rows.npy is damaged" in out
    assert "published version 5" in run(capsys, "repair", "--index", index_dir)[1]
    assert run(capsys, "verify", "--index", index_dir)[0] == 0


@pytest.mark.parametrize("command", ["build", "embed"])
def test_a_device_that_is_not_there_is_told_before_the_corpus_is_read(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = ("--corpus", mixed_corpus(tmp_path, 3), "--checkpoint", checkpoint, "--output", tmp_path / "out")
    code, out, err = run(capsys, command, *arguments, "--device", "foo")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"anykey-index {command}: error: device 'foo' is not available: ")
    assert not (tmp_path / "out").exists()


def test_embedding_nothing_leaves_no_folder(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "no key"}])
    arguments = ("embed", "--corpus", corpus, "--checkpoint", checkpoint, "--output", tmp_path / "out")
    assert run(capsys, *arguments)[0] == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert run(capsys, *arguments)[0] == 2
    assert (tmp_path / "out").exists(), "a folder that was there stays"


def test_memory_below_zero_is_refused_by_what_was_expected(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "compact", "--index", "i", "--memory", "-4GiB")
    expected = "anykey-index compact: error: setting 'memory': expected an amount of memory such as 4GiB or 500MB, got"
    assert (code, err) == (2, f"{expected} '-4GiB'\n")


def test_what_cannot_be_done_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("info", "compact", "verify", "repair", "export", "snapshot"):
        output = ["--output", tmp_path / "out"] if command in ("export", "snapshot") else []
        code, _, err = run(capsys, command, "--index", tmp_path / "none", *output)
        assert (code, err.count("\n")) == (1, 1), command
        assert f"anykey-index {command}: error: no index at {tmp_path / 'none'}" in err
    assert not (tmp_path / "none").exists()


def test_password_in_an_address_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--index", "http://root:hunter2@localhost/products"]) == 2
    told = capsys.readouterr().err
    assert "name and password have no place in an address" in told
    assert "hunter2" not in told


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("load --shards foo://x --index new", "Protocol not known: foo"),
        ("load --shards abfs://x/y --index new", "Install adlfs"),
        ("load --shards pipe --index new", "pipe is neither a file nor a folder"),
        ("tune --index i --queries foo://x", "Protocol not known: foo"),
        ("embed --corpus corpus.jsonl --checkpoint {} --output foo://x", "Protocol not known: foo"),
        ("build --corpus pipe --checkpoint {} --output new", "pipe is neither a file nor a folder"),
        ("build --corpus corpus.jsonl --checkpoint {} --faiss pipe --output new", "pipe cannot be read: it is no file"),
        ("build --corpus corpus.jsonl --checkpoint {} --faiss none --output new", "none cannot be read: No such file"),
    ],
)
def test_place_that_cannot_be_read_or_written_is_one_line(
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    reason: str,
) -> None:
    mixed_corpus(tmp_path)
    make_index(tmp_path / "i", new_keys(3))
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)

    assert main(command.format(checkpoint).split()) in (1, 2)

    err = capsys.readouterr().err
    assert reason in err
    assert "Traceback" not in err


def test_own_names_of_structures_are_known_in_capitals(checkpoint: Path) -> None:
    given = {"corpus": ["c"], "checkpoint": str(checkpoint), "output": "i"}
    structures = [BuildSettings.model_validate({**given, "structure": name}).structure for name in ("AUTO", "Exact")]
    assert structures == ["auto", "exact"]
