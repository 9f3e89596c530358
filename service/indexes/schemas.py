"""The wire format of what is told of indexes: what is served, and what it holds. Imports no torch."""

from typing import Literal

from pydantic import BaseModel, Field

from anykey.encoder.item import Modality
from anykey.service.schemas import Limits


class LeftChanges(BaseModel):
    """Changes that were made over HTTP to the release before, and that the one that answers may not have."""

    release: str = Field(description="The release that has them.")
    num_changes: int = Field(description="How many keys were stored and deleted in it by this process.")


class HeldPart(BaseModel):
    """One thing that an index holds."""

    name: str = Field(
        description="vectors, structure (of the search), gpu_structure, positions, fields (for filters), store "
        "(keys and payload, with its log) or recent (keys that no version covers yet)."
    )
    bytes: int = Field(description="Size of its file; for `recent` and `gpu_structure`: about what it takes.")
    place: Literal["mapped", "memory", "gpu", "disk"] = Field(
        description="mapped: a file of which the system keeps in memory what is used, as far as there is room; memory: "
        "of this process; gpu: memory of GPUs; disk: a file that is read piece by piece."
    )


class IndexMemory(BaseModel):
    """What one index holds in this process, and where."""

    parts: list[HeldPart]
    mapped_bytes: int = Field(description="Of all parts that are mapped.")
    memory_bytes: int = Field(description="Of all parts in this process's memory.")
    gpu_bytes: int = Field(description="Of all parts in the memory of GPUs.")
    disk_bytes: int = Field(description="Of all parts that are read from a file piece by piece.")


class ModelMemory(BaseModel):
    """A model that is loaded once, whichever indexes use it."""

    name: str
    fingerprint: str
    device: str = Field(description="Where its weights are: cpu, cuda, ...")
    weights_bytes: int = Field(description="Numbers of its weights times the size of one as it computes with them.")
    indexes: list[str] = Field(description="Names of the indexes that it serves.")


class ProcessMemory(BaseModel):
    """What this process holds besides its indexes, and the limit that it comes to first."""

    encoders: list[ModelMemory]
    rerankers: list[ModelMemory]
    query_vectors: int = Field(description="Vectors of queries that are kept.")
    query_vectors_bytes: int = Field(description="What they take, about.")
    answers: int = Field(description="Answers that are kept.")
    answers_bytes: int = Field(description="What they take, about.")
    thumbnails: int = Field(description="Thumbnails of images that are kept.")
    thumbnails_bytes: int = Field(description="What they take, about.")
    resident_bytes: int | None = Field(
        description="The process's resident set, pages of mapped files in it; null where the system does not tell."
    )
    own_bytes: int | None = Field(description="The same without pages of files, which the system can drop.")
    limited_by: Literal["setting", "cgroup", "machine"] | None = Field(
        description="The limit of which least is left: memory_limit_mib, a container's, or the machine's memory."
    )
    limit_bytes: int | None = Field(description="That limit.")
    free_bytes: int | None = Field(description="What is left of it; pages of files count as free.")


class MemoryInfo(BaseModel):
    """What an index and the process that serves it hold."""

    index: IndexMemory | None = Field(description="Null where the index does not tell in time.")
    process: ProcessMemory


class FoldFailure(BaseModel):
    """The last failure to fold changes into a new version; searches go on, and take the changes from memory."""

    at: str = Field(description="When, ISO 8601, UTC.")
    kind: str = Field(description="What it was, in a few words; the writer's log has all of it.")
    num_failures: int = Field(description="How often in a row.")
    next_try_at: str = Field(description="When its writer tries again.")


class SearchTrial(BaseModel):
    """How fast searches are alone and together; times are milliseconds a search."""

    most_together: int = Field(description="How many searches that wait may share a call of the index.")
    alone_ms: float | None = Field(description="Each with a call of its own; null where it was not measured.")
    together_ms: dict[str, float] = Field(description="By how many share a call; empty where it was not measured.")


class SearchPace(BaseModel):
    """What decides how many searches share a call of the index, measured with random queries."""

    usual: SearchTrial = Field(description="Of searches by the index's structure.")
    exact: SearchTrial = Field(description="Of searches that compare every key.")


class IndexInfo(BaseModel):
    """The index being served, counted when it was asked for; an answer is given again for a second."""

    engine: str = Field(description="faiss for an index directory, milvus for a Milvus collection.")
    version: str | None = Field(description="The published version; null for a Milvus collection.")
    created_at: str | None = Field(description="When that was published; null for a Milvus collection.")
    num_keys: int
    modalities: dict[str, int] = Field(description="Number of keys of each modality.")
    pools: dict[str, int] = Field(description="Number of keys in each pool.")
    fold_failure: FoldFailure | None = Field(
        description="What is said of folding changes into a new version, while that fails; else null."
    )
    pace: SearchPace


class ModelInfo(BaseModel):
    """The loaded encoder."""

    name: str
    fingerprint: str
    width: int
    widths: list[int] = Field(
        description="Widths that vectors may be cut to, because the model was trained for it; none but its own: empty."
    )
    fusion: str
    context_length: int = Field(description="Most tokens of a text that are used, its start's and end's included.")
    device: str = Field(description="Where it computes: cpu, cuda, ...")
    backend: str = Field(description="Library that computes it: torch, compile, onnx or openvino.")
    precision: str = Field(description="Number format that it computes in: fp32, bf16, fp16 or int8.")
    why: str = Field(description="What was tried before these were chosen; empty where they were set.")


class RerankerInfo(BaseModel):
    """A loaded cross-encoder."""

    name: str = Field(description="What `rerank.model` of a search calls it.")
    fingerprint: str
    modalities: list[Modality] = Field(description="Kinds of query and key that it reads.")
    max_tokens: int = Field(description="Most tokens of a query's and a key's text together that are read.")
    device: str = Field(description="Where it computes: cpu, cuda, ...")


class ReleaseInfo(BaseModel):
    """The release that answers."""

    number: str | None = Field(description="Its name; null where there are no releases.")
    created_at: str | None = Field(description="When it was published, ISO 8601, UTC.")
    note: str | None = Field(description="What whoever published it said of it.")
    problem: str | None = Field(description="Why the current release is not the one that answers; null if it is.")


class ChangesInfo(BaseModel):
    """What may be done to keys."""

    writable: bool = Field(description="Whether this service changes keys; one process at a time has the index's lock.")
    undo_s: float | None = Field(
        description="How long a change made with `undo=true` can be undone; null where it cannot be, as in a Milvus "
        "collection, which takes no conditions and idempotency keys either."
    )


class InfoResponse(BaseModel):
    """What is being served."""

    name: str
    version: str
    index: IndexInfo
    model: ModelInfo
    release: ReleaseInfo
    rerankers: list[RerankerInfo]
    limits: Limits
    changes: ChangesInfo
    memory: MemoryInfo
    counters: dict[str, dict[str, int]] = Field(
        description="Counters of the batcher, the cache and each reranker since start, and what is held now."
    )


class ListedIndex(BaseModel):
    """One of the indexes that are served."""

    name: str = Field(description="What addresses call it: /indexes/NAME/search.")
    status: Literal["loading", "ready", "failing"]
    reason: str | None = Field(description="Why its searches are not answered; null when they are.")
    release: str | None = Field(description="The release that answers; null where there are none.")
    problem: str | None = Field(
        description="What is wrong though it answers, such as a release that cannot be loaded; else null."
    )
    encoder: str | None = Field(description="Fingerprint of its encoder, of those below `memory`; null if not loaded.")
    memory: IndexMemory | None = Field(description="What it holds; null if it does not answer.")
    left_changes: LeftChanges | None = Field(
        description="Changes that were made over HTTP to the release before, which this one has only if they were made "
        "before its index was copied; null if there were none."
    )


class IndexesResponse(BaseModel):
    """The indexes that are served."""

    default: str | None = Field(
        description="The one that addresses without a name mean. Null: the caller may not see it."
    )
    indexes: list[ListedIndex]
    memory: ProcessMemory
