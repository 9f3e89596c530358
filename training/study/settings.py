"""Every knob of `anykey-train study`: the plan, which a TOML file holds, and where things are on this machine."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliSuppress, SettingsConfigDict

from anykey.encoder.fusion import Fusion
from anykey.program.settings import ProgramSettings

START = "start"
NATIVE: Literal["native"] = "native"  # where a model fuses by itself, and no features are added
StudyFusion = Fusion | Literal["native"]


def fusion_named(name: str) -> StudyFusion:
    """How features are added, or that none are.

    Raises:
        ValueError: the name is of neither.
    """
    return NATIVE if name == NATIVE else Fusion(name)


class Variant(BaseModel):
    """One way to fine-tune.

    Attributes:
        name: Name of its runs and of its rows in the report.
        why: One line on what it is there for; shown in the report.
        fusion_matters: False where the loss knows no fused vectors: one run then serves every fusion.
        settings: Settings of `anykey-train` that differ from the plan's `[fine_tune]`.
        of: Name of a variant whose runs it is made of, instead of runs of its own: a point on the line from their
            start to what they left (WiSE-FT, arXiv 2109.01903).
        share: Where on that line: 0 is the start, 1 what the runs left.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    why: str = ""
    fusion_matters: bool = True
    settings: dict[str, Any] = {}
    of: str | None = None
    share: float = Field(1.0, ge=0, le=1)

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuses a point on no line, and settings of runs that it does not have."""
        if self.of is None and self.share != 1:
            raise ValueError(f"variant '{self.name}' has a share, and says not of which variant")
        if self.of is not None and self.settings:
            raise ValueError(f"variant '{self.name}' is made of the runs of '{self.of}', it has no settings of its own")
        return self


class StudySettings(ProgramSettings):
    """Compares losses: fine-tunes one start in several ways, over several seeds, and reports what each reaches.

    The plan is a TOML file (--config). Runs that are finished are not run again, a run that was cut goes on;
    the report is written at the end, and with --report-only from the runs that are there.
    """

    model_config = SettingsConfigDict(env_prefix="ANYKEY_STUDY_")

    data: list[str] = Field([], description="training pairs, as anykey-train takes them")
    val_data: list[str] = Field([], description="validation pairs: curves, and the means of mean-centring")
    test_data: list[str] = Field([], description="test pairs: what the report measures; used for nothing else")
    image_weights: Path | None = Field(None, description="pretrained weights of the timm image trunk (.safetensors)")
    output: Path = Field(Path("runs/study"), description="study folder: runs/ and report/")
    feature_cache: Path | None = Field(
        None, description="folder for a locked trunk's features, shared by all runs; default: in the study folder"
    )
    only: list[str] = Field([], description="run and report only these variants, besides the start")
    report_only: bool = Field(False, description="train nothing; report the runs that are finished")
    workers: int = Field(1, ge=1, le=256, description="trainings at once; from 2 on, each runs in its own process")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    machine: str = Field("", description="what the report calls the machine; default: its processor and cores")

    seeds: list[int] = Field([0, 1, 2], min_length=1, description="one start, and one run of each variant, a seed")
    fusions: list[StudyFusion] = Field(
        [Fusion.RAW, Fusion.UNIT],
        min_length=1,
        description="how image and text features are added; native, and nothing else, for models of family fusion",
    )
    search: CliSuppress[dict[str, list[Any]]] = Field(
        {},
        description="settings that are tried with every variant on the first seed, in all combinations; what is best "
        "on the validation pairs is run with all seeds",
    )
    common: CliSuppress[dict[str, Any]] = Field({}, description="anykey-train's settings of every run")
    start: CliSuppress[dict[str, Any]] = Field({}, description="settings of the start, beside `common`")
    fine_tune: CliSuppress[dict[str, Any]] = Field({}, description="settings of every variant, beside `common`")
    picture: str = Field(
        "", description="variant whose space is drawn beside the start's, and whose lead over every other is tested"
    )
    variants: CliSuppress[list[Variant]] = Field([], description="ways to fine-tune: name, why, settings")

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuses a plan without a comparison, and data that would be measured on itself."""
        if not self.variants:
            raise ValueError("no variants: name a plan, as in --config training/recipes/gcl-study.toml")
        for name in ("data", "val_data", "test_data"):
            if not getattr(self, name):
                raise ValueError(f"no --{name.replace('_', '-')}: training, validation and test pairs are all needed")
        names = [variant.name for variant in self.variants]
        repeated = {name for name in names if names.count(name) > 1} | ({START} & set(names))
        if repeated:
            raise ValueError(f"variants need names of their own, other than '{START}': {', '.join(sorted(repeated))}")
        if NATIVE in self.fusions and len(self.fusions) > 1:
            raise ValueError(f"--fusions {NATIVE} goes alone: a model that fuses by itself adds no features")
        if self.search and len(self.fusions) > 1:
            raise ValueError("a plan with a [search] has one of --fusions")
        if empty := [name for name, values in self.search.items() if not values]:
            raise ValueError(f"[search] has nothing to try for {', '.join(empty)}")
        if unknown := set(self.only) - set(names) - {START}:
            raise ValueError(f"--only names no variant of the plan: {', '.join(sorted(unknown))}")
        return self

    @model_validator(mode="after")
    def check_variants(self) -> Self:
        """Refuses a variant that is made of runs which the plan does not have."""
        trained = {variant.name for variant in self.variants if variant.of is None}
        for variant in self.variants:
            if variant.of is not None and variant.of not in trained:
                raise ValueError(f"variant '{variant.name}' is made of the runs of '{variant.of}', which has none")
        return self
