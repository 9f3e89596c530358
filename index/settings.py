"""Settings of `anykey-index`, one class per command."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from encoder.program import ProgramSettings
from index.readers.columns import parse_columns

ImageStorage = Literal["copy", "reference"]  # what the store keeps of a key's images


class BuildSettings(ProgramSettings):
    """Embeds a corpus and publishes it as the next version of an index.

    A run that was stopped goes on where it was; a run over an unchanged corpus changes nothing.
    """

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    corpus: list[str] = Field(
        min_length=1,
        description="JSONL, CSV, TSV and Parquet files, WebDataset shards, folders of images, M-BEIR datasets or "
        "candidate files; paths, patterns with * and {000..099}, URLs; one or several",
    )
    columns: list[str] = Field(
        [],
        description="What a row's fields are called, such as key=sku,text=title; the fields are key, text, image, "
        "metadata and pool",
    )
    prefix_keys: bool = Field(
        False, description="Begin the keys of shards and folders with the shard's or folder's name and a slash"
    )
    checkpoint: str = Field(
        min_length=1,
        description="Encoder: checkpoint directory, ARCHITECTURE@WEIGHTS_FILE, or ARCHITECTURE/PRETRAINED_TAG",
    )
    output: Path = Field(description="Index directory; made if absent")
    strict: bool = Field(False, description="Fail at the first bad row instead of skipping and listing bad rows")
    images: ImageStorage = Field(
        "copy",
        description="copy: the store holds the images' bytes and can be moved; reference: it holds where they are",
    )
    batch_size: int = Field(
        64, ge=1, le=65_536, description="Keys embedded and committed at once; one of several images counts as so many"
    )
    decode_threads: int = Field(
        min(8, os.cpu_count() or 1),
        ge=1,
        le=256,
        description="Threads that read and decode images ahead of the encoder",
    )
    max_image_bytes: int = Field(20 * 2**20, ge=1, description="Larger image files are bad rows")
    max_image_pixels: int = Field(64_000_000, ge=1024, le=178_000_000, description="Larger images are bad rows")
    max_images: int = Field(64, ge=1, le=4096, description="Keys with more images are bad rows")
    fusion: Literal["raw", "unit"] | None = Field(
        None,
        description="How image and text features are added; default: as the checkpoint has it, raw if it does not say",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Number format of the encoder; auto: fp16 on a GPU, else fp32"
    )

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


class InfoSettings(ProgramSettings):
    """Shows what the published version of an index holds and what made it."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    index: Path = Field(description="Index directory")
    as_json: bool = Field(False, description="Print the whole manifest as JSON")
