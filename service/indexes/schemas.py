"""The wire format of what is told of indexes: what they hold in memory, and what a release left. No torch."""

from typing import Literal

from pydantic import BaseModel, Field


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
