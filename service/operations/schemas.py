"""The wire format of what operators are told. Imports no torch."""

from pydantic import BaseModel, Field


class StatusResponse(BaseModel):
    """Answer of the health checks."""

    status: str


class ReadyResponse(StatusResponse):
    """Answer of the check whether searches are answered."""

    failing: dict[str, str] = Field(
        description="Where there are several indexes: why some do not answer, by the index's name."
    )
    problems: dict[str, str] = Field(
        description="What is wrong with indexes that answer, such as a release that cannot be loaded, by name."
    )


class StageSummary(BaseModel):
    """How long a stage of requests took."""

    stage: str
    count: int = Field(description="How many times; those of a batch's queries count once each.")
    p50_ms: float
    p90_ms: float
    p99_ms: float
    share: float = Field(description="Of the time of all requests to that route; stages of a batch's queries overlap.")


class RouteSummary(BaseModel):
    """Where the time of a route's requests went."""

    index: str = Field(description="The index that answered; empty where none was asked.")
    route: str
    stages: list[StageSummary]


class MetricsSummary(BaseModel):
    """Where time goes."""

    recent_s: float = Field(description="What `recent` covers, about.")
    since_start: list[RouteSummary]
    recent: list[RouteSummary]
