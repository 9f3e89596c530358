"""Every knob of `anykey-train sweep`."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliSuppress, SettingsConfigDict

from anykey.program.settings import ProgramSettings


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; integers where both are, evenly by logarithm with `log`."""

    model_config = ConfigDict(extra="forbid")

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuses a range that holds nothing, or has no logarithm."""
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, got {self.low}")
        return self


Choices = list[Any]
DEFAULT_SPACE: dict[str, Range | Choices] = {
    "temperature": Range(low=0.01, high=0.1, log=True),
    "learning_rate": Range(low=5e-6, high=3e-3, log=True),
    "reading": ["R1", "R2", "R3", "R4"],
    "fusion": ["raw", "unit"],
    # All alike; more of image and text; more of text and fused; without the pairs that share the image.
    "pair_weights": [[], ["i>t=2", "t>i=2"], ["t>it=2", "it>t=2"], ["i>it=0", "it>i=0"]],
}


class SweepSettings(ProgramSettings):
    """Searches good settings: trains many runs, guided by Optuna, and keeps the best as best.toml.

    The same command goes on where it was stopped, until there are --trials of them; several may work on one output
    folder at once. A trial is judged by the best mixed-pool success@10 of its run on --val-data.
    """

    model_config = SettingsConfigDict(env_prefix="ANYKEY_SWEEP_")

    data: list[str] = Field([], description="training pairs, as anykey-train takes them")
    val_data: list[str] = Field([], description="held-out pairs that judge a trial")
    output: Path = Field(Path("runs/sweep"), description="sweep folder: sweep.db, trials/, best.toml")
    base: Path | None = Field(None, description="anykey-train's settings file that every trial starts from")
    start: str | None = Field(None, description="encoder to fine-tune, instead of the base's")
    image_weights: Path | None = Field(None, description="pretrained weights of the timm image trunk (.safetensors)")
    feature_cache: Path | None = Field(
        None, description="folder for a locked trunk's features, shared by all trials; default: in the sweep folder"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")

    trials: int = Field(30, ge=1, le=100_000, description="trials in all, those of earlier commands included")
    workers: int = Field(1, ge=1, le=256, description="trials at once; from 2 on each worker is a process of its own")
    only: list[str] = Field([], description="search these settings of the space alone; the others stay the base's")
    keep_checkpoints: int = Field(3, ge=1, description="the best trials whose checkpoints are kept; all keep their log")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every trial and of the search")

    space: CliSuppress[dict[str, Range | Choices]] = Field(
        DEFAULT_SPACE,
        description="what is searched: setting to {low, high, log} or a list of choices; "
        "'pair_weights.i>t' is one entry of a list setting",
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuses a search without pairs to judge it, without a space, or over what it decides itself."""
        if not self.data or not self.val_data:
            raise ValueError("a sweep needs --data and --val-data: held-out pairs judge a trial")
        if unknown := sorted(set(self.only) - self.space.keys()):
            raise ValueError(f"--only names what is not in the space: {', '.join(unknown)}")
        for name, choices in self.searched.items():
            if isinstance(choices, list) and len(choices) < 2:
                raise ValueError(f"the space of '{name}' needs two choices or more")
        if not self.searched:
            raise ValueError("the space is empty: there is nothing to search")
        return self

    @property
    def searched(self) -> dict[str, Range | Choices]:
        """The space, restricted by `only`."""
        return {name: values for name, values in self.space.items() if not self.only or name in self.only}
