"""Settings of all commands that embed."""

import os
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from anykey.program.settings import ProgramSettings


class EncodingSettings(ProgramSettings):
    """The encoder, and how it is used."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INDEX_")

    checkpoint: str = Field(
        min_length=1,
        description="Encoder: checkpoint directory, ARCHITECTURE@WEIGHTS_FILE, or ARCHITECTURE/PRETRAINED_TAG",
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
    max_image_bytes: int = Field(20 * 2**20, ge=1, description="Larger image files are bad rows")
    max_image_pixels: int = Field(64_000_000, ge=1024, le=178_000_000, description="Larger images are bad rows")
    max_image_aspect: float = Field(
        200.0,
        ge=1,
        le=100_000,
        description="Images whose longer side is more than this many times the shorter are bad rows",
    )
    fusion: Literal["raw", "unit"] | None = Field(
        None,
        description="How image and text features are added; default: as the checkpoint has it, raw if it does not say",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Number format of the encoder; auto: fp16 on a GPU, else fp32"
    )
