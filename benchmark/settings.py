"""Settings of the benchmark's commands, one class each. Environment prefix: `ANYKEY_BENCH_`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from benchmark.program import ProgramSettings


class ShapesWorldSettings(ProgramSettings):
    """Draws the demo dataset: training pairs and eight test tasks in M-BEIR layout."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_")

    output: Path = Field(Path("data/shapesworld"), description="directory of the dataset")
    seed: int = Field(0, ge=0, description="the same seed and settings give the same bytes")
    train_scenes: int = Field(12_000, ge=0, le=10_000_000, description="scenes to train on, one image each")
    val_scenes: int = Field(400, ge=0, le=1_000_000, description="held-out scenes for measuring during training")
    queries_per_task: int = Field(100, ge=1, le=50_000, description="test queries of each of the eight tasks")
    near_misses_per_query: int = Field(
        2, ge=0, le=20, description="keys per query that differ from its positive in one detail"
    )
    distractors_per_task: int = Field(100, ge=0, le=1_000_000, description="unrelated keys in each local pool")
    image_size_px: int = Field(64, ge=32, le=1024, description="side of the square images")
    shard_size: int = Field(2000, ge=1, description="pairs per WebDataset shard")
    workers: int = Field(0, ge=0, le=256, description="processes that draw; 0 means one per core, 8 at most")
    redraw: bool = Field(False, description="draw again even when the output is up to date")
