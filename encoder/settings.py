"""Settings of `anykey-encoder`, one class per command."""

from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from anykey.program.settings import ProgramSettings

# What settings of every program may say of how an encoder computes; `encoder.backends` knows which go together.
BackendName = Literal["auto", "torch", "compile", "onnx", "openvino"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "int8"]


class EncoderChoice(Protocol):
    """What the settings of every program that embeds say of its encoder, in `Encoder.load`'s words."""

    @property
    def checkpoint(self) -> str:
        """The source."""

    @property
    def device(self) -> str:
        """Where it computes."""

    @property
    def backend(self) -> BackendName:
        """By which library."""

    @property
    def precision(self) -> PrecisionName:
        """In which numbers."""

    @property
    def fusion(self) -> Literal["raw", "unit"] | None:
        """How the features of towers are added, if not as the checkpoint has it."""

    @property
    def width(self) -> int | None:
        """How many numbers of a vector are kept, if not as the checkpoint has it."""


class ConvertSettings(ProgramSettings):
    """Makes a checkpoint directory of weights in any layout that is known."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_ENCODER_")

    source: CliPositionalArg[str] = Field(
        min_length=1,
        description="Weights file (open_clip, OpenAI, TinyCLIP, MobileCLIP), directory of Hugging Face or open_clip, "
        "ARCHITECTURE@FILE, or ARCHITECTURE/PRETRAINED_TAG, which alone may use the network",
    )
    output: Path = Field(description="Checkpoint directory to write; it must not exist yet")
    architecture: str | None = Field(
        None,
        description="Name of the network in open_clip or TinyCLIP, or a .json configuration, where the file does not "
        "say it",
    )
    tokenizer: str | None = Field(
        None, description="Folder with the tokenizer, where the source has none; clip is CLIP's own"
    )
    average: bool = Field(
        False, description="Take the average of the weights over training that a trainer kept beside the last ones"
    )
    fusion: Literal["raw", "unit"] | None = Field(
        None, description="How image and text features are added; default: as the source has it, raw if it does not say"
    )


class InfoSettings(ProgramSettings):
    """Shows what an encoder is: its network, preprocessing, tokenizer and fingerprint, and how it computes."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_ENCODER_")

    source: CliPositionalArg[str] = Field(
        min_length=1, description="Checkpoint directory, or what else a --checkpoint may be"
    )
    device: str = Field("cpu", description="auto, cpu, cuda, cuda:1, ...")
    backend: BackendName = Field(
        "torch", description="Library that computes the encoder; auto: try what is here, and say how fast and how exact"
    )
    precision: PrecisionName = Field(
        "auto",
        description="Number format of the encoder; auto: as the backend, or 16 bits on a GPU and fp32 elsewhere for "
        "one that is named",
    )
    as_json: bool = Field(False, description="Print it as JSON")
