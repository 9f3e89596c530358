"""Settings of `anykey-index`, one class per command."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from anykey.encoder.settings import BackendName, PrecisionName
from anykey.index.filtering.filters import parse_path
from anykey.index.milvus.address import parse_address
from anykey.index.store.manifest import ALL_FIELDS, AUTO
from anykey.index.vectors.structure_facts import EXACT, LatencyMs, MemoryBytes, Recall, VectorType
from anykey.index.vectors.structure_kinds import require_kind
from anykey.program.image_limits import ImageLimitSettings
from anykey.program.settings import ProgramSettings
from anykey.sources.columns import parse_columns
from anykey.sources.files.images import ImageStorage
from anykey.sources.files.roots import root_of


class _EncoderSettings(ProgramSettings):
    """The encoder alone: the limits on images, which all programs share, follow it in `--help`."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    checkpoint: str = Field(
        min_length=1,
        description="Encoder: checkpoint directory, one that sentence-transformers saved, a Hugging Face directory or "
        "weights file that says which network it is, ARCHITECTURE@WEIGHTS_FILE, or ARCHITECTURE/PRETRAINED_TAG",
    )
    batch_size: int = Field(
        64,
        ge=1,
        le=65_536,
        description="Keys embedded and committed at once; a key with several images counts as that many",
    )
    decode_threads: int = Field(
        min(8, os.cpu_count() or 1),
        ge=1,
        le=256,
        description="Threads that read and decode images ahead of the encoder",
    )
    fusion: Literal["raw", "unit"] | None = Field(
        None,
        description="How image and text features are added; default: as the checkpoint has it, raw if it does not say",
    )
    width: int | None = Field(
        None,
        ge=1,
        description="Numbers that are kept of a vector, for models that were trained to be cut (Matryoshka); default: "
        "as the checkpoint has it, all if it does not say",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    backend: BackendName = Field(
        "auto", description="Library that computes the encoder; auto: the fastest here that gives float32's vectors"
    )
    precision: PrecisionName = Field(
        "auto",
        description="Number format of the encoder; auto: as the backend, or 16 bits on a GPU and fp32 elsewhere for "
        "one that is named",
    )


class EncodingSettings(ImageLimitSettings, _EncoderSettings):
    """The encoder, and how it is used."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")


class EmbeddingSettings(EncodingSettings):
    """A corpus, the encoder that embeds it, and how."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    corpus: list[str] = Field(
        min_length=1,
        description="JSONL, CSV, TSV and Parquet files, WebDataset shards, folders of images, M-BEIR datasets or "
        "candidate files; paths, patterns with * and {000..099}, URLs, pipe:COMMAND; one or several",
    )
    columns: list[str] = Field(
        [],
        description="What a row's fields are called, such as key=sku,text=title; the fields are key, text, image, "
        "metadata and pool; text= and image= say that there is none",
    )
    prefix_keys: bool = Field(
        False, description="Begin the keys of shards and folders with the shard's or folder's name and a slash"
    )
    faiss: Path | None = Field(
        None,
        description="FAISS file of the vectors that the checkpoint gave for the corpus, row by row; they "
        "are taken, and nothing is embedded",
    )
    normalize: bool = Field(False, description="Scale the vectors of the FAISS file to unit length")
    allow_removal: bool = Field(
        False,
        description="Remove keys even if they are more than 10 % of over 100 keys that earlier runs stored, or if they "
        "may be where the corpus cannot be read",
    )
    strict: bool = Field(False, description="Fail at the first bad row instead of skipping and listing bad rows")
    images: ImageStorage = Field(
        "copy",
        description="copy: the store holds the images' bytes and can be moved; reference: it holds where they are",
    )
    max_images: int = Field(64, ge=1, le=4096, description="Keys with more images are bad rows")

    @model_validator(mode="after")
    def check_normalize(self) -> Self:
        """Refuses what would have no effect."""
        if self.normalize and self.faiss is None:
            raise ValueError("normalize is for the vectors of a FAISS file; expected faiss with it")
        return self

    @field_validator("corpus", mode="before")
    @classmethod
    def name_paths(cls, value: Any) -> Any:
        """Takes paths as the names they are."""
        return [str(name) if isinstance(name, Path) else name for name in value] if isinstance(value, list) else value

    @field_validator("columns")
    @classmethod
    def check_columns(cls, value: list[str]) -> list[str]:
        """Refuses what is no `field=column`."""
        parse_columns(value)
        return value


class ImageRootSettings(ProgramSettings):
    """Where images may lie that an index only refers to."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    image_root: list[str] = Field(
        [],
        description="Folders, files and URLs below which images may be read that the index only refers to; one or "
        "several",
    )

    @field_validator("image_root")
    @classmethod
    def check_roots(cls, value: list[str]) -> list[str]:
        """Makes paths absolute, and refuses what is neither a path nor a plain URL."""
        return list(map(root_of, value))


class SearchDeviceSettings(ProgramSettings):
    """GPUs that search structures are made with and for."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    search_device: str = Field(
        "auto",
        description="GPUs that help to make the search structure, and whose own are chosen and measured too: auto (all "
        "there are), cpu, cuda, cuda:0,2",
    )
    search_gpu_memory_mib: int = Field(
        256, ge=1, description="Memory on each GPU that searches may take beyond the vectors, in MiB"
    )


class FoldSettings(SearchDeviceSettings):
    """How versions are derived; what is not given stays as the index has it."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    calibrate: Literal["none", "modality-mean"] | None = Field(
        None,
        description="modality-mean: centre keys and queries by their modality's mean, for encoders that rank a mixed "
        "corpus by modality; default: as the index has it, none for a new one",
    )
    structure: str | None = Field(
        None,
        min_length=1,
        description="Search structure: auto to choose by measurement, exact, or a kind that docs/index-tuning.md "
        "lists, such as IVF1024,PQ64x4fs; default: as the index has it, auto for a new one",
    )
    memory: MemoryBytes | None = Field(None, description="Most memory that searches may keep, such as 4GiB")
    recall: Recall | None = Field(
        None, description="Least recall@10 against exact search, such as 0.98, which is the default of a new index"
    )
    latency: LatencyMs | None = Field(
        None,
        description="Most time of a typical query, such as 10ms; without it, the fastest search that meets the rest",
    )

    keep_versions: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Versions that are kept, the published one among them, for `rollback` to go back to; default: as "
        "the index has it, 2 for a new one",
    )

    word_fields: list[str] | None = Field(
        None,
        description="Fields of the metadata by whose words keys are found, besides their names and texts: as filters "
        "name them, one or several; * for all strings and whole numbers, [] for none; default: as the index has it, * "
        "for a new one",
    )

    @field_validator("word_fields")
    @classmethod
    def check_word_fields(cls, value: list[str] | None) -> list[str] | None:
        """Refuses what is no name of a field, and `*` beside others."""
        for field in value or ():
            parse_path(field)
        if value and ALL_FIELDS in value and len(value) > 1:
            raise ValueError("expected * alone, which stands for all fields, or fields by their names")
        return value

    @field_validator("structure")
    @classmethod
    def check_structure(cls, value: str | None) -> str | None:
        """Refuses a structure of no kind there is; takes `AUTO` and `Exact` for what they mean."""
        if value is None or value.lower() == AUTO:
            return value and AUTO
        name = EXACT if value.lower() == EXACT else value
        require_kind(name)
        return name


class BuildSettings(EmbeddingSettings, FoldSettings, ImageRootSettings):
    """Embeds a corpus and publishes it as the next version of an index.

    A run that was stopped goes on where it was; a run over an unchanged corpus changes nothing.
    """

    image_root: list[str] = Field(
        [],
        description="With images by reference: folders and URLs, besides the corpus's own, below which they may lie; "
        "one or several",
    )

    output: Path = Field(description="Index directory; made if absent")
    anew: bool = Field(
        False,
        description="Build from the corpus alone if the present store is damaged or of another encoder; keys that were "
        "stored live are dropped",
    )
    dry_run: bool = Field(False, description="Say what would be done, and change nothing")
    restore_deleted: bool = Field(
        False, description="Store keys again that were deleted live, where the corpus names them"
    )
    vectors: VectorType | None = Field(
        None,
        description="How a new index keeps vectors; float16 takes half the room; "
        "default: as the index has it, float32 for a new one",
    )

    @model_validator(mode="after")
    def check_use_of_roots(self) -> Self:
        """Refuses what would have no effect."""
        if self.image_root and self.images != "reference":
            raise ValueError("image_root is for images by reference; expected images = reference with it")
        return self

    @field_validator("output", mode="before")
    @classmethod
    def require_directory(cls, value: Any) -> Any:
        """Refuses a collection of Milvus, which `load` fills."""
        return _directory(value)


class EmbedSettings(EmbeddingSettings):
    """Embeds a corpus into Parquet shards of keys and vectors, here or on a Ray cluster; `load` stores them.

    A run that was stopped, or over a changed corpus, embeds only the shards that are missing or changed.
    """

    output: str = Field(description="Folder for the shards; a path or URL that all workers can write to")
    shard_keys: int = Field(
        10_000, ge=1, le=1_000_000, description="Rows of the corpus in a shard, which is made whole: what a kill costs"
    )
    vectors: VectorType = Field("float16", description="How the shards keep vectors")
    ray: str | None = Field(
        None, description="Runs on Ray: auto for the cluster of this machine, or one that is started; ray://HOST:PORT"
    )
    workers: int = Field(
        2, ge=1, le=10_000, description="On Ray: processes that embed, each with an encoder of its own"
    )
    worker_cpus: float = Field(1, gt=0, description="On Ray: CPUs of a worker")
    worker_gpus: float = Field(0, ge=0, description="On Ray: GPUs of a worker; 0.5 lets two share one")


class IndexSettings(ProgramSettings):
    """Names an index directory."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    index: Path = Field(description="Index directory")

    @field_validator("index", mode="before")
    @classmethod
    def require_directory(cls, value: Any) -> Any:
        """Refuses a collection of Milvus, which looks after itself."""
        return _directory(value)


class ReembedSettings(IndexSettings, ImageRootSettings, EncodingSettings, FoldSettings):
    """Embeds all keys of an index with another checkpoint, from what its own store holds.

    A run that was stopped goes on where it was; searches go on meanwhile, and see all of it or nothing.
    """

    output: Path | None = Field(
        None, description="Index directory for the new index; default: a new version of the index itself"
    )
    vectors: VectorType | None = Field(
        None, description="How the new vectors are kept; float16 takes half the room; default: as the index has it"
    )
    leave_out: bool = Field(
        False, description="Leave out keys that cannot be embedded, and list them with the bad rows, instead of failing"
    )


class AnyIndexSettings(ProgramSettings):
    """Names an index of either engine."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    index: str = Field(
        min_length=1,
        description="Index directory, or a Milvus collection: http://HOST:PORT/COLLECTION, or FILE.db/COLLECTION for "
        "Milvus Lite",
    )
    milvus_token: SecretStr | None = Field(
        None, description="Credentials for a Milvus server, such as user:password; better in the environment"
    )

    @field_validator("index")
    @classmethod
    def check_address(cls, value: str) -> str:
        """Refuses an address that names no collection."""
        parse_address(value)
        return value


class InfoSettings(AnyIndexSettings):
    """Shows what an index holds, what made it, and what was measured."""

    as_json: bool = Field(False, description="Print all of it as JSON")


class CompactSettings(IndexSettings, FoldSettings):
    """Folds the changes since the published version into a new one, or derives one in another way."""


class TuneSettings(IndexSettings, SearchDeviceSettings):
    """Chooses the search structure with real queries, which later versions are measured with too."""

    queries: list[str] = Field(
        [], description="Parquet shards that `embed` wrote of queries, or folders of them; paths or URLs"
    )
    forget: bool = Field(False, description="Forget the queries, and measure with keys of the index again")

    @model_validator(mode="after")
    def check_choice(self) -> Self:
        """Refuses to guess which of the two is meant."""
        if bool(self.queries) == self.forget:
            raise ValueError("expected either queries, or forget")
        return self


class VerifySettings(IndexSettings):
    """Reads every byte of an index and says what is damaged; exit code 1 if anything is."""


class RepairSettings(IndexSettings, SearchDeviceSettings):
    """Derives a new version from the store, whatever is damaged of the published one."""


class RollbackSettings(SearchDeviceSettings):
    """Goes back to an earlier version of an index, whose keys, texts, images, vectors and pools become a new one.

    What was there before is kept as a version too. With `--releases`: goes back to an earlier release, as it was.
    """

    index: Path | None = Field(None, description="Index directory")
    releases: Path | None = Field(None, description="Directory of releases")
    to: str | None = Field(
        None,
        description="The version to go back to, one that `info` lists, or the release, one that `releases` lists; "
        "default: the one before the published one",
    )
    undo_live: bool = Field(
        False, description="Undo what was stored and deleted live in the index since then, too; not for releases"
    )
    dry_run: bool = Field(False, description="Only say what would come back, be changed, and go; not for releases")

    @field_validator("index", mode="before")
    @classmethod
    def require_directory(cls, value: Any) -> Any:
        """Refuses a collection of Milvus, which looks after itself."""
        return _directory(value)

    @model_validator(mode="after")
    def check_choice(self) -> Self:
        """Refuses to guess which of the two is meant."""
        if (self.index is None) == (self.releases is None):
            raise ValueError("expected either index, or releases")
        if self.releases is not None and (self.undo_live or self.dry_run):
            raise ValueError("undo_live and dry_run: expected none with releases, which are gone back to as they were")
        return self


class ReleasesSettings(ProgramSettings):
    """Lists releases: which one is current, what each is made of, and what deleting it would free."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    releases: Path = Field(description="Directory of releases")
    as_json: bool = Field(False, description="Print all of it as JSON")


class ReleaseSettings(AnyIndexSettings):
    """Publishes a checkpoint and an index that belong together as one release, which a service switches to whole."""

    checkpoint: str = Field(min_length=1, description="Encoder of the index, named as it was when the index was built")
    fusion: Literal["raw", "unit"] | None = Field(
        None, description="How image and text features are added, if it was said when the index was built"
    )
    width: int | None = Field(
        None, ge=1, description="Numbers that are kept of a vector, if it was said when the index was built"
    )
    releases: Path = Field(description="Directory of releases; made if it is not there")
    refer: bool = Field(
        False,
        description="Only note where checkpoint and index are, instead of taking them into the release. A collection "
        "of Milvus, and weights that are no directory, are always referred to",
    )
    keep: int = Field(
        2, ge=1, description="Releases that are kept, with this one; others are deleted unless somebody reads them"
    )
    note: str = Field("", max_length=500, description="What is to be said of it when releases are listed")
    check: bool = Field(
        False, description="Read every byte of the index, and load the encoder, before the release is published"
    )


class ExportSettings(IndexSettings):
    """Writes the keys and vectors of an index, as they are at one moment."""

    output: Path = Field(description="Folder to write to; must be empty if it exists")
    form: Literal["parquet", "faiss"] = Field(
        "parquet", description="parquet: shards that `load` reads; faiss: a FAISS file, and the keys as JSON lines"
    )


class LoadSettings(AnyIndexSettings, FoldSettings, ImageRootSettings):
    """Stores keys with their vectors from Parquet shards, in a new index or one that is there, of either engine."""

    shards: list[str] = Field(
        min_length=1, description="Parquet files that `export` or `embed` wrote, or folders of them; paths or URLs"
    )
    vectors: VectorType | None = Field(
        None,
        description="How a new index keeps vectors; float16 takes half the room; "
        "default: as the index has it, float32 for a new one",
    )
    milvus_structure: Literal["FLAT", "IVF_FLAT", "HNSW"] | None = Field(
        None,
        description="How Milvus arranges the vectors of a new collection; default: as the collection has it, FLAT, "
        "which compares with every key, for a new one",
    )
    images_dir: str | None = Field(
        None, description="Folder or URL where the images of a Milvus collection are kept; without one they are not"
    )


class SnapshotSettings(IndexSettings):
    """Writes an index, as it is at one moment, to a tar file that `restore` unpacks elsewhere."""

    output: Path = Field(description="The tar file; must not exist")


class RestoreSettings(ImageRootSettings):
    """Unpacks a snapshot, and looks at every byte of it before it becomes an index."""

    former_flags: ClassVar[Mapping[str, str]] = {"--index": "--output"}

    snapshot: Path = Field(description="What `snapshot` wrote")
    output: Path = Field(description="Index directory to unpack to; must be empty if it exists")

    @field_validator("output", mode="before")
    @classmethod
    def require_directory(cls, value: Any) -> Any:
        """Refuses a collection of Milvus, which looks after itself."""
        return _directory(value)


def _directory(value: Any) -> Any:
    """What names an index directory, as it is; anything that names a collection is refused."""
    if isinstance(value, str) and parse_address(value) is not None:
        raise ValueError("a Milvus collection can be loaded and shown; this command is for index directories")
    return value
