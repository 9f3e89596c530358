"""Settings of the benchmark's commands, one class and one environment prefix each."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from anykey.program.settings import ProgramSettings
from anykey.sources.columns import parse_columns


def parse_options(assignments: Sequence[str]) -> dict[str, str]:
    """Values by name, of "name=value".

    Raises:
        ValueError: an assignment has another form, or a name comes twice.

    >>> parse_options(["pooling=middle"])
    {'pooling': 'middle'}
    """
    options: dict[str, str] = {}
    for assignment in assignments:
        name, _, value = (part.strip() for part in assignment.partition("="))
        if not name or not value:
            raise ValueError(f"expected something like pooling=middle, got '{assignment}'")
        if name in options:
            raise ValueError(f"option '{name}' is given twice")
        options[name] = value
    return options


def _checked_options(assignments: list[str]) -> list[str]:
    """Refuses what is no `name=value`."""
    parse_options(assignments)
    return assignments


Options = Annotated[list[str], AfterValidator(_checked_options)]


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


class CorpusSettings(ProgramSettings):
    """Writes a dataset's keys as one JSONL file that anykey-index reads."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_CORPUS_")

    dataset: Path = Field(..., description="the dataset's directory, as its owners publish it")
    format: str = Field("auto", description="which dataset it is: a name of anykey-bench datasets, or auto")
    split: str = Field("", description="whose keys, where splits have their own; default: that papers report")
    options: Options = Field([], description="what to choose about the dataset, such as pooling=middle")
    output: Path = Field(..., description="the JSONL file; images that are no files are written beside it")


class StoreSettings(ProgramSettings):
    """Stores a dataset's keys in a running service that may be changed, which embeds them."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_STORE_")

    dataset: Path = Field(..., description="the dataset's directory, as its owners publish it")
    format: str = Field("auto", description="which dataset it is: a name of anykey-bench datasets, or auto")
    split: str = Field("", description="whose keys, where splits have their own; default: that papers report")
    options: Options = Field([], description="what to choose about the dataset, such as pooling=query")
    url: str = Field("http://127.0.0.1:8000", description="address of the running service")
    api_key: SecretStr | None = Field(
        None,
        description="API key that the service asks for, better in the environment; default: the variable "
        "ANYKEY_API_KEY",
    )
    batch: int = Field(16, ge=1, le=1000, description="keys in one request, if it does not grow too large with them")
    concurrency: int = Field(2, ge=1, le=64, description="requests under way at the same time")
    timeout_s: float = Field(120.0, gt=0, le=3600, description="longest wait for one whole answer")
    ready_timeout_s: float = Field(60.0, ge=0, le=3600, description="longest wait until the service is ready")
    max_attempts: int = Field(8, ge=1, le=100, description="tries per request while the service is overloaded")


class DatasetsSettings(ProgramSettings):
    """Lists the datasets that can be measured with, and which of them are on this machine."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_DATASETS_")

    data: Path = Field(Path("data"), description="directory whose folders are looked through for datasets")


class FetchSettings(ProgramSettings):
    """Fetches a dataset from where its owners publish it, checks it, and says what is left to do by hand."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_FETCH_")

    name: CliPositionalArg[str] = Field(description="a name of anykey-bench datasets")
    output: Path = Field(..., description="directory of the dataset; what is there already is not fetched again")


class QualitySettings(ProgramSettings):
    """Sends every query of a dataset to a running service and scores the answers."""

    former_flags: ClassVar[Mapping[str, str]] = {
        "--instructions": "--instructions=all",
        "--no-instructions": "--instructions=none",
    }
    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_QUALITY_", cli_shortcuts={"cutoffs": "k"})

    dataset: Path = Field(Path("data/shapesworld"), description="the dataset's directory, as its owners publish it")
    format: str = Field("auto", description="which dataset it is: a name of anykey-bench datasets, or auto")
    url: str = Field("http://127.0.0.1:8000", description="address of the running service")
    api: Literal["anykey", "openai", "cohere", "clip-retrieval", "qdrant", "marqo"] = Field(
        "anykey",
        description="what the endpoint speaks: AnyKey's search; an embeddings API, whose vectors are then compared "
        "here, all with all; or the search of another engine",
    )
    collection: str = Field("", description="the engine's collection or index that holds the dataset's keys")
    key_field: str = Field(
        "", description="field of the engine's hits that has the keys; default: the id of qdrant's points, marqo's _id"
    )
    key_modality: Literal["image", "text"] = Field(
        "image", description="whether clip-retrieval searches its index of images or of texts"
    )
    vector_name: str = Field("", description="name of the vector that qdrant searches, where points have several")
    embed_url: str = Field(
        "", description="an openai API that embeds the queries for qdrant or clip-retrieval; default: they do it"
    )
    model: str = Field("", description="the model's name, which embeddings APIs and qdrant's inference ask for")
    item_form: Literal["text", "messages", "modality"] = Field(
        "text",
        description="how items are spelt to the openai API: texts alone, conversations as vLLM takes them (images, and "
        "image and text together), or infinity's modality (images)",
    )
    embed_path: str = Field("", description="where embeddings are on the server; default: /v1/embeddings or /v2/embed")
    embed_batch: int = Field(32, ge=1, le=2048, description="keys in one request for embeddings")
    api_key: SecretStr | None = Field(
        None,
        description="key that the endpoint asks for, better in the environment; default: the variable ANYKEY_API_KEY, "
        "which only AnyKey is sent",
    )
    vectors: Path | None = Field(
        None, description="directory that keeps the keys' vectors of an embeddings API; default: vectors in the output"
    )
    output: Path = Field(
        Path("runs/quality"), description="directory for report.html, results.md, results.json and run files"
    )
    split: str = Field("", description="which queries are sent; default: the split that papers report")
    options: Options = Field([], description="what to choose about the dataset, such as pooling=middle")
    tasks: list[str] = Field([], description="task names, or their short forms such as 0 or mscoco_task0; default: all")
    pools: list[str] = Field(
        [], description="which candidates, such as local (each task's own) and global (the whole corpus); default: all"
    )
    index: str | None = Field(
        None, description="directory of the index that the service serves: (re)built from the dataset's keys first"
    )
    index_settings: list[str] = Field(
        [], description="settings of anykey-index build for that, such as checkpoint=runs/best"
    )
    check_keys: bool = Field(
        False, description="make sure, before the first query, that the index has exactly these keys"
    )
    search: list[Literal["approximate", "exact"]] = Field(
        ["approximate"],
        min_length=1,
        description="as users search, or comparing every key; both tell what the index loses from what the model loses",
    )
    cutoffs: list[int] = Field(
        [1, 5, 10, 20, 50],
        min_length=1,
        description="every k of success@k and recall@k, where a task has none of its own",
    )
    limit: int | None = Field(None, ge=1, description="only the first so many queries of each task")
    concurrency: int = Field(8, ge=1, le=256, description="requests under way at the same time")
    text_weight: float | None = Field(
        None, ge=0, le=1, description="share of the text in fused queries; default: the service's"
    )
    instructions: Literal["none", "text", "all", "field"] = Field(
        "none",
        description="the dataset's instructions: left out; before the text of queries that have one; of all queries, "
        "which makes an image a fused query; or in the request's own field",
    )
    exclude_reference: bool | None = Field(
        None, description="never return the query's own image; default: as the benchmark's rules say"
    )
    timeout_s: float = Field(60.0, gt=0, le=3600, description="longest wait for one whole answer")
    ready_timeout_s: float = Field(60.0, ge=0, le=3600, description="longest wait until the service is ready")
    max_attempts: int = Field(8, ge=1, le=100, description="tries per query while the service is overloaded")
    worst: int = Field(5, ge=0, le=50, description="queries of each task that report.html shows, the worst; 0: none")

    @field_validator("instructions", mode="before")
    @classmethod
    def of_a_switch(cls, value: Any) -> Any:
        """Reads true and false, which were all that there was before."""
        return {"true": "all", "false": "none"}.get(str(value).lower(), value)

    @field_validator("index_settings")
    @classmethod
    def check_index_settings(cls, value: list[str]) -> list[str]:
        """Refuses what is no `name=value`."""
        if wrong := [each for each in value if not re.fullmatch(r"[a-z][a-z_-]*=.+", each)]:
            raise ValueError(f"expected something like checkpoint=runs/best, got '{wrong[0]}'")
        return value

    @field_validator("cutoffs", mode="after")
    @classmethod
    def order_cutoffs(cls, value: list[int]) -> list[int]:
        """Cut-offs in ascending order, each once, all at least 1."""
        if min(value) < 1:
            raise ValueError("every cut-off must be at least 1")
        return sorted(set(value))


class CompareSettings(ProgramSettings):
    """Compares runs query by query: one table, one picture, and what is significant."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_COMPARE_")

    runs: list[Path] = Field(
        ...,
        min_length=2,
        description="output directories of anykey-bench quality; the others are compared with the first",
    )
    metric: str = Field("headline", description="such as success@10; headline: the one that papers quote of each task")
    output: Path = Field(Path("runs/comparison"), description="directory for comparison.md, .json and .png")


class GateSettings(QualitySettings):
    """Measures like quality, then says by its exit code whether the numbers are high enough: 0, or 3 where not."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_GATE_", cli_shortcuts={"cutoffs": "k"})

    output: Path = Field(
        Path("runs/gate"), description="directory for report.html, results.md, results.json and run files"
    )
    at_least: list[str] = Field(
        [],
        description="lowest values, such as success@10=0.5 (of each table's mean over tasks) or 'mscoco_task0 mrr=0.3'",
    )
    against: Path | None = Field(
        None, description="an earlier run's directory or results.json; being significantly worse closes the gate"
    )

    @field_validator("at_least")
    @classmethod
    def check_bounds(cls, value: list[str]) -> list[str]:
        """Refuses what is no `NAME=NUMBER`."""
        parse_bounds(value)
        return value

    @model_validator(mode="after")
    def require_a_condition(self) -> Self:
        """Refuses a gate that nothing could close."""
        if not self.at_least and self.against is None:
            raise ValueError("expected at_least, against or both: without either the gate is always open")
        return self


def parse_bounds(assignments: Sequence[str]) -> dict[str, float]:
    """Lowest values by name, of "NAME=NUMBER".

    Raises:
        ValueError: an assignment has another form.

    >>> parse_bounds(["success@10=0.5", "mscoco_task0 mrr=0.3"])
    {'success@10': 0.5, 'mscoco_task0 mrr': 0.3}
    """
    bounds = {}
    for assignment in assignments:
        name, _, value = assignment.rpartition("=")
        try:
            bounds[name.strip()] = float(value)
        except ValueError:
            name = ""
        if not name.strip():
            raise ValueError(f"expected something like success@10=0.5, got '{assignment}'")
    return bounds


class LoadSettings(ProgramSettings):
    """Sends searches to a running service at a given pace, and tells how long the answers took."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_LOAD_", cli_shortcuts={"num-hits": "k"})

    url: str = Field("http://127.0.0.1:8000", description="address of the running service")
    api_key: SecretStr | None = Field(
        None,
        description="API key that the service asks for, better in the environment; default: the variable "
        "ANYKEY_API_KEY",
    )
    output: Path = Field(Path("runs/load"), description="directory for load.html, load.md, load.json and latency.png")
    rates: list[float] = Field(
        [], description="requests due in a second, one rate after the other; default: 10,50,100, or the log's own pace"
    )
    duration_s: float = Field(30.0, gt=0, le=86_400, description="how long each rate is measured")
    warm_up_s: float = Field(5.0, ge=0, le=3600, description="how long each rate is sent before, uncounted")
    arrivals: Literal["poisson", "uniform"] = Field(
        "poisson", description="as users who know nothing of each other come, or at equal distances"
    )
    find_saturation: bool = Field(
        False, description="look for the highest rate that holds, from the first of --rates (default: 10) on"
    )
    limit_ms: float = Field(500.0, gt=0, description="what p99 may be at a rate that holds")
    max_in_flight: int = Field(
        256, ge=1, le=20_000, description="requests under way, beyond which one that is due is not sent, and counted"
    )
    timeout_s: float = Field(30.0, gt=0, le=3600, description="longest wait for an answer, from when it was due")
    dataset: Path = Field(Path("data/shapesworld"), description="directory of the dataset whose queries are sent")
    format: str = Field("auto", description="which dataset it is: a name of anykey-bench datasets, or auto")
    options: Options = Field([], description="what to choose about the dataset, such as pooling=middle")
    split: str = Field("", description="which queries are sent; default: the split that papers report")
    tasks: list[str] = Field([], description="task names, or their short forms such as 0 or mscoco_task0; default: all")
    pools: list[str] = Field(
        [], description="which candidates, such as local; default: every query once, over the whole corpus if it may be"
    )
    repeat_share: float = Field(
        0.0, ge=0, lt=1, description="share of requests that repeat an earlier one, as a vector cache answers them"
    )
    log: Path | None = Field(
        None,
        description="replay this instead: a JSONL file of bodies of POST /search, each with at_s in seconds or none, "
        "such as queries.jsonl of the service's query log",
    )
    speed: float = Field(1.0, gt=0, description="how many times as fast as in the log")
    num_hits: int = Field(10, ge=1, description="k of the searches: hits asked for")
    search: Literal["approximate", "exact"] = Field(
        "approximate", description="as users search, or comparing every key"
    )
    text_weight: float | None = Field(
        None, ge=0, le=1, description="share of the text in fused queries; default: the service's"
    )
    instructions: Literal["none", "text", "all", "field"] = Field(
        "none", description="the dataset's instructions, as for anykey-bench quality"
    )
    exclude_reference: bool | None = Field(
        None, description="never return the query's own image; default: as the benchmark's rules say"
    )
    seed: int = Field(0, ge=0, description="the same seed gives the same queries at the same moments")
    ceiling_s: float = Field(
        2.0, ge=0, le=60, description="how long the client is measured without a service; 0 leaves it out"
    )
    ready_timeout_s: float = Field(60.0, ge=0, le=3600, description="longest wait until the service is ready")

    @field_validator("rates")
    @classmethod
    def check_rates(cls, value: list[float]) -> list[float]:
        """Refuses rates at which nothing is ever due."""
        if any(not 0 < rate < 1e6 for rate in value):
            raise ValueError("every rate must be above 0 and below a million")
        return value


class JudgementsSettings(ProgramSettings):
    """Turns a service's query log and the feedback of its users into topics and qrels, as TREC has them."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_BENCH_JUDGEMENTS_")

    log: Path = Field(..., description="folder of the query log, as the service's query_log names it")
    output: Path = Field(..., description="directory of the dataset, which must not be there yet")
    corpus: Path | None = Field(
        None, description="what the index was built of, or `anykey-index export` wrote; copied into the dataset"
    )
    index: str | None = Field(None, description="only queries of this index; default: of all that the log has")
    min_votes: int = Field(1, ge=1, description="how often a hit must have been judged to count")


class FromPairsSettings(ProgramSettings):
    """Turns held-out image-caption pairs into a dataset in M-BEIR's layout, or in MixBench's."""

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
    layout: Literal["mbeir", "mixbench"] = Field(
        "mbeir",
        description="mbeir: a task for each kind of key; mixbench: one task, in which a caption of each image finds it "
        "among all, each of them one key, in turn an image, a text or a page",
    )
    limit: int | None = Field(None, ge=2, description="only the first so many images")

    @field_validator("columns")
    @classmethod
    def check_columns(cls, value: list[str]) -> list[str]:
        """Refuses what is no `field=column`."""
        parse_columns(value)
        return value

    @model_validator(mode="after")
    def check_layout(self) -> Self:
        """Refuses keys that the layout does not have."""
        if self.layout == "mixbench" and self.text_keys == "all":
            raise ValueError(
                "--text-keys all: in MixBench's layout an image is one key, whose text is its first caption"
            )
        return self
