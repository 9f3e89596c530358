"""Every knob of `anykey-train interpolate`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from anykey.program.settings import ProgramSettings

_SOURCES = "checkpoint directory, ARCHITECTURE@FILE or ARCHITECTURE/TAG"


class InterpolateSettings(ProgramSettings):
    """Writes a checkpoint on the straight line between a start and what was fine-tuned from it (WiSE-FT).

    Fine-tuning gains on data like the training pairs and forgets elsewhere; a point between often keeps most of both.
    """

    model_config = SettingsConfigDict(env_prefix="ANYKEY_INTERPOLATE_")

    start: str = Field(min_length=1, description=f"encoder that fine-tuning started from: {_SOURCES}")
    tuned: str = Field(min_length=1, description=f"the fine-tuned encoder: {_SOURCES}")
    share: float = Field(0.5, ge=0, le=1, description="0: the start's weights, 1: the fine-tuned encoder's")
    output: Path = Field(description="checkpoint directory to write; an existing one is replaced")
