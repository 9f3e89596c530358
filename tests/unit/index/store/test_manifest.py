"""The manifest: it is read back as it was written, or refused with the reason."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from anykey.index.errors import EncoderMismatchError, IndexCorruptError, IndexFormatError
from anykey.index.store.manifest import file_facts, read_manifest
from anykey.index.vectors.structure_facts import GpuFacts, Measured, SearchParameters, StructureFacts, Targets
from tests.unit.index.store.test_versions import manifest


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


def test_any_flipped_byte_of_the_manifest_is_found(tmp_path: Path) -> None:
    path = manifest("17").write(tmp_path)
    sound = path.read_bytes()

    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises((IndexCorruptError, IndexFormatError), match=r"manifest\.json is damaged|has format"):
            read_manifest(tmp_path)


def test_manifest_of_an_older_release_has_no_checksum(tmp_path: Path) -> None:
    written = manifest("17")
    (tmp_path / "manifest.json").write_text(written.model_dump_json())

    assert read_manifest(tmp_path) == written


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


def test_facts_of_a_structure_that_a_later_release_adds_are_passed_over(tmp_path: Path) -> None:
    numbers = dict.fromkeys(Measured.model_fields, 1.0)
    facts = StructureFacts(
        factory="exact",
        search=SearchParameters(),
        memory_bytes=1,
        build_seconds=0,
        measured=Measured(**numbers),
        num_queries=1,
        query_source="sampled keys",
        targets=Targets(),
        shortfalls=[],
        candidates=[],
        front=[],
    )
    written = manifest("3").model_copy(update={"structure": facts})
    content = json.loads(written.model_dump_json())
    content["structure"]["energy_joules"] = 7
    content["structure"]["measured"]["recall_at_1000"] = 1
    (tmp_path / "manifest.json").write_text(json.dumps(content))

    assert read_manifest(tmp_path) == written


def test_structure_of_gpus_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="'flat', 'ivf-pq' or 'cagra'"):
        GpuFacts.model_validate({"kind": "quantum"})
