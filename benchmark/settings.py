"""Settings of the benchmark's commands, one class and one environment prefix each."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from anykey.program.settings import ProgramSettings
from anykey.sources.columns import parse_columns


class ShapesWorldSettings(ProgramSettings):
    """Draws the demo dataset: training pairs and eight test tasks in M-BEIR layout."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_SHAPESWORLD_")

    output: Path = Field(Path("data/shapesworld"), description="directory of the dataset")
    seed: int = Field(0, ge=0, description="the same seed and settings give the same bytes")
    train_scenes: int = Field(12_000, ge=0, le=10_000_000, description="scenes to train on, one image each")
    val_scenes: int = Field(400, ge=0, le=1_000_000, description="held-out scenes for measuring during training")
    queries_per_task: int = Field(100, ge=1, le=50_000, description="test queries of each of the eight tasks")
    near_misses_per_query: int = Field(
        5, ge=0, le=20, description="keys per query that differ from its positive in one detail"
    )
    distractors_per_task: int = Field(100, ge=0, le=1_000_000, description="unrelated keys in each local pool")
    image_size_px: int = Field(64, ge=32, le=1024, description="side of the square images")
    shard_size: int = Field(2000, ge=1, description="pairs per WebDataset shard")
    workers: int = Field(0, ge=0, le=256, description="processes that draw; 0 means one per core, 8 at most")
    redraw: bool = Field(False, description="draw again even when the output is up to date")


class QualitySettings(ProgramSettings):
    """Sends every query of an M-BEIR dataset to a running service and scores the answers."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_QUALITY_", cli_shortcuts={"cutoffs": "k"})

    dataset: Path = Field(Path("data/shapesworld"), description="dataset directory in M-BEIR layout")
    url: str = Field("http://127.0.0.1:8000", description="address of the running service")
    output: Path = Field(Path("runs/quality"), description="directory for results.json, results.md and run files")
    split: Literal["test", "val"] = Field("test", description="which queries are sent")
    tasks: list[str] = Field([], description="task numbers or names such as mscoco_task0; default: all of the dataset")
    pools: list[Literal["local", "global"]] = Field(
        ["local", "global"], min_length=1, description="search each task's own pool, the whole corpus, or both"
    )
    cutoffs: list[int] = Field([1, 5, 10, 50], min_length=1, description="every k of success@k and recall@k")
    limit: int | None = Field(None, ge=1, description="only the first so many queries of each task")
    concurrency: int = Field(8, ge=1, le=256, description="requests under way at the same time")
    text_weight: float | None = Field(
        None, ge=0, le=1, description="share of the text in fused queries; default: the service's"
    )
    instructions: bool = Field(False, description="put the dataset's first prompt in front of every query text")
    exclude_reference: bool = Field(
        False, description="never return the query's own image (as CIRR does; M-BEIR does not)"
    )
    timeout_s: float = Field(60.0, gt=0, le=3600, description="longest wait for one whole answer")
    ready_timeout_s: float = Field(60.0, ge=0, le=3600, description="longest wait until the service is ready")
    max_attempts: int = Field(8, ge=1, le=100, description="tries per query while the service is overloaded")

    @field_validator("cutoffs", mode="after")
    @classmethod
    def order_cutoffs(cls, value: list[int]) -> list[int]:
        """Cut-offs in ascending order, each once, all at least 1."""
        if min(value) < 1:
            raise ValueError("every cut-off must be at least 1")
        return sorted(set(value))


class FromPairsSettings(ProgramSettings):
    """Turns held-out image-caption pairs into a dataset in M-BEIR layout."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_FROM_PAIRS_")

    pairs: list[str] = Field(
        ...,
        min_length=1,
        description="what training reads: folders, shards, manifests, tables, URLs; {a,b} {0..9} * ? [] are patterns",
    )
    columns: list[str] = Field(
        [], description="what a row's fields are called, as for training: text=title,image=photo"
    )
    output: Path = Field(..., description="directory of the dataset")
    name: str = Field(..., pattern=r"^[a-z0-9]+$", description="dataset name: lower-case letters and digits")
    dataset_id: int = Field(90, ge=0, le=9999, description="first part of every id; M-BEIR's own are 0 to 9")
    text_keys: Literal["first", "all"] = Field(
        "first", description="captions that are keys of image -> text: the first of each image, or all"
    )
    keys: Literal["each", "once"] = Field(
        "each",
        description="each image is three keys (image, text, page), or one, in turn: then the global pool is a mixed "
        "pool in which every image competes once",
    )
    limit: int | None = Field(None, ge=2, description="only the first so many images")

    @field_validator("columns")
    @classmethod
    def check_columns(cls, value: list[str]) -> list[str]:
        """Refuses what is no `field=column`."""
        parse_columns(value)
        return value
