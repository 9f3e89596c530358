"""The manifest: it is read back as it was written, or refused with the reason."""

import json
from pathlib import Path

import pytest

from index.embedded.manifest import file_facts, read_manifest
from index.errors import EncoderMismatchError, IndexCorruptError, IndexFormatError
from tests.unit.index.embedded.test_versions import manifest


def test_manifest_is_read_back_as_written(tmp_path: Path) -> None:
    written = manifest("3")
    written.write(tmp_path)

    assert read_manifest(tmp_path) == written


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "it is no JSON"),
        ("\xff", "it is no JSON"),
        ("[]", "expected a JSON object"),
        ('{"format_version": 2}', "field 'version': Field required"),
    ],
)
def test_damaged_manifest_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")

    with pytest.raises(IndexCorruptError, match=rf"manifest\.json is damaged: {reason}"):
        read_manifest(tmp_path)


def test_other_format_is_refused_even_if_its_fields_differ(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format_version": 3, "shards": []}))

    with pytest.raises(IndexFormatError, match="has format 3, this release reads format 2"):
        read_manifest(tmp_path)


def test_encoder_that_made_the_index_is_accepted() -> None:
    manifest("1").check_encoder("sha256:0", 8, "raw")


def test_another_encoder_is_refused_with_the_differences() -> None:
    with pytest.raises(EncoderMismatchError) as caught:
        manifest("1").check_encoder("sha256:1", 16, "raw")

    assert "fingerprint: index has sha256:0, encoder has sha256:1; width: index has 8, encoder has 16" in str(
        caught.value
    )
    assert "fusion" not in str(caught.value)


def test_file_facts_are_size_and_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")

    facts = file_facts(tmp_path / "f")

    assert facts.size_bytes == 3
    assert facts.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
