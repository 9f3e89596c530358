"""What an index version says about itself."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from anykey.encoder.item import Modality
from anykey.index.errors import EncoderMismatchError, IndexCorruptError, IndexFormatError, InvalidStructureError
from anykey.index.vectors.structure_facts import DEFAULT_RECALL, StructureFacts, Targets

if TYPE_CHECKING:
    from anykey.encoder.protocol import ItemEncoder
    from anykey.index.settings import FoldSettings

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
OPTIONS_NAME = "options"  # under which a store notes them
AUTO = "auto"
ALL_FIELDS = "*"
VERSIONS_KEPT = 2  # of an index that was not told
logger = logging.getLogger(__name__)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FoldOptions(BaseModel):
    """How versions are derived from a store: what a build was told, and what later ones and compaction keep to.

    Attributes:
        calibrate: `modality-mean` centres vectors and queries by their modality's mean.
        structure: FAISS factory string of the search structure, `exact`, or `auto` to choose by measurement.
        targets: What the structure, or its search parameters, are chosen to keep to.
        keep_versions: How many versions are kept, the published one among them, to go back to.
        word_fields: Fields of the metadata whose words keys are found by, besides name and text; `None` for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calibrate: Literal["none", "modality-mean"] = "none"
    structure: str = AUTO
    targets: Targets = Targets()
    keep_versions: int = VERSIONS_KEPT
    word_fields: tuple[str, ...] | None = None

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what was not told, so that earlier releases, which do not know of it, read the manifest."""
        dumped: dict[str, Any] = handler(self)
        if self.keep_versions == VERSIONS_KEPT:
            dumped.pop("keep_versions", None)
        if self.word_fields is None:
            dumped.pop("word_fields", None)
        return dumped

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "FoldOptions":
        """Those noted in a store; in place of a structure that earlier releases built, one is chosen by measurement."""
        from anykey.index.vectors.structure_kinds import require_kind  # which reading an index does not need

        noted = cls.model_validate(json.loads(meta.get(OPTIONS_NAME, "{}")))
        if noted.structure == AUTO:
            return noted
        try:
            require_kind(noted.structure)
        except InvalidStructureError as error:
            logger.warning("a search structure is chosen by measurement instead of the one that was named: %s", error)
            return noted.model_copy(update={"structure": AUTO})
        return noted

    def changed_by(self, settings: "FoldSettings") -> "FoldOptions":
        """These options, but for what is given; what is said of the structure replaces all that was said of it."""
        told = {"calibrate": settings.calibrate, "keep_versions": settings.keep_versions}
        changed = self.model_copy(update={name: value for name, value in told.items() if value is not None})
        if settings.word_fields is not None:
            named = None if settings.word_fields == [ALL_FIELDS] else tuple(dict.fromkeys(settings.word_fields))
            changed = changed.model_copy(update={"word_fields": named})
        memory, recall, latency = settings.memory, settings.recall, settings.latency
        if (settings.structure, memory, recall, latency) == (None, None, None, None):
            return changed
        targets = Targets(memory_bytes=memory, recall=recall or DEFAULT_RECALL, latency_ms=latency)
        return changed.model_copy(update={"structure": settings.structure or AUTO, "targets": targets})

    def derives_as(self, other: "FoldOptions") -> bool:
        """Whether the files of a version would be the same with other options."""
        same = {"keep_versions": other.keep_versions, "word_fields": other.word_fields}
        return self.model_copy(update=same) == other

    def facts(self) -> dict[str, str]:
        """For a store to note."""
        return {OPTIONS_NAME: self.model_dump_json()}


class EncoderFacts(_Record):
    """The encoder that made the vectors.

    Attributes:
        name: Human-readable name.
        fingerprint: `sha256:...` of weights, preprocessing and fusion.
        width: Length of a vector.
        fusion: How image and text features are added.
        computed_in: Precision, backend and device of each build that embedded keys; for people. An example is
            `fp16 by torch on cuda`.
    """

    name: str
    fingerprint: str
    width: int
    fusion: str
    computed_in: list[str] = []

    @classmethod
    def of(cls, encoder: "ItemEncoder") -> "EncoderFacts":
        """What is noted of an encoder that is loaded."""
        return cls(
            name=encoder.name,
            fingerprint=encoder.fingerprint,
            width=encoder.width,
            fusion=str(encoder.fusion),
            computed_in=[f"{encoder.precision} by {encoder.backend} on {encoder.device}"],
        )

    def check(self, fingerprint: str, width: int, fusion: str) -> None:
        """Makes sure that another encoder's vectors may be searched beside this one's.

        Raises:
            EncoderMismatchError: it is another encoder; says in what they differ.
        """
        pairs = [
            ("fingerprint", self.fingerprint, fingerprint),
            ("width", self.width, width),
            ("fusion", self.fusion, str(fusion)),
        ]
        differences = [
            f"{name}: index has {ours}, encoder has {theirs}" for name, ours, theirs in pairs if ours != theirs
        ]
        if differences:
            raise EncoderMismatchError(f"the index was built by another encoder ({'; '.join(differences)})")


class FileFacts(_Record):
    """Size and checksum of one file of the version.

    Attributes:
        size_bytes: Length of the file.
        sha256: Hexadecimal digest of the whole file.
    """

    size_bytes: int
    sha256: str


class Manifest(_Record):
    """What made an index version, from what, and what is in it.

    Attributes:
        format_version: Format of the directory; see `docs/index-format.md`.
        version: The version's name, a decimal number.
        created_at: When it was published, ISO 8601, UTC.
        encoder: The encoder that made the vectors.
        num_keys: Number of keys.
        modalities: Number of keys per modality; all three are listed.
        pools: Number of keys per named pool.
        num_bad_rows: Corpus rows that were skipped; `bad_rows.jsonl` lists them.
        store: Name of the store that the version is derived from, a decimal number.
        store_id: What that store calls itself, so that no other is taken for it.
        options: How the version was derived from it.
        structure: Its search structure and what was measured of it; `None` if there are no keys.
        seq: Number of the last change of the store that the version covers.
        files: Every other file of the version, by name.
        corpus: Corpus paths, as they were given to the builder.
        settings: The builder's settings.
        libraries: Versions of the libraries that wrote the files.
    """

    format_version: int
    version: str
    created_at: str
    encoder: EncoderFacts
    num_keys: int
    modalities: dict[Modality, int]
    pools: dict[str, int]
    num_bad_rows: int
    store: str
    store_id: str
    options: FoldOptions
    structure: StructureFacts | None = None
    seq: int
    files: dict[str, FileFacts]
    corpus: list[str]
    settings: dict[str, Any]
    libraries: dict[str, str]

    def check_encoder(self, fingerprint: str, width: int, fusion: str) -> None:
        """Makes sure that an encoder's vectors may be searched in this index.

        Raises:
            EncoderMismatchError: another encoder made the index; says in what they differ.
        """
        self.encoder.check(fingerprint, width, fusion)

    def write(self, directory: Path) -> Path:
        """Writes `manifest.json`, with a checksum of these fields, into the directory and gives its path back."""
        path = directory / MANIFEST_NAME
        content = self.model_dump(mode="json")
        content["checksum"] = _checksum(content)
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        return path


def read_manifest(directory: Path) -> Manifest:
    """Reads the manifest of one version directory.

    Raises:
        IndexCorruptError: it is missing, no JSON, has other fields than it should, or is not what was written.
        IndexFormatError: the version was written in a format this release does not read.
    """
    path = directory / MANIFEST_NAME
    try:
        content = json.loads(read_whole(path))
    except FileNotFoundError as error:
        raise IndexCorruptError(path, "it is missing") from error
    except ValueError as error:
        raise IndexCorruptError(path, f"it is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise IndexCorruptError(path, "expected a JSON object")
    if content.get("format_version") != FORMAT_VERSION:
        raise IndexFormatError(
            f"index {directory} has format {content.get('format_version')!r}, this release reads format "
            f"{FORMAT_VERSION}; build it again with `anykey-index build`"
        )
    checksum = content.pop("checksum", None)  # older versions have none
    if checksum is not None and checksum != _checksum(content):
        raise IndexCorruptError(path, f"its checksum is {_checksum(content)}, it says {checksum}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise IndexCorruptError(path, f"field '{field}': {first['msg']}") from error


def _checksum(content: dict[str, Any]) -> str:
    """Of a manifest's fields but `checksum`, however the JSON is laid out."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def file_facts(path: Path) -> FileFacts:
    """Measures one file: size and SHA-256 of all of it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(size_bytes=path.stat().st_size, sha256=digest)


def read_whole(path: Path) -> bytes:
    """Reads a file; opening a pipe in its place would wait for somebody to write to it.

    Raises:
        IndexCorruptError: something else than a file is there.
        FileNotFoundError: nothing is there.
        PermissionError: it may not be read.
    """
    if path.exists() and not path.is_file():
        raise IndexCorruptError(path, "it is no file")
    return path.read_bytes()
