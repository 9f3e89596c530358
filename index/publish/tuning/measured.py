"""What was measured of a search structure, in lines for people."""

from collections.abc import Iterator

from anykey.index.vectors.structure_facts import GpuFacts, GpuStructure, Point, StructureFacts


def structure_lines(facts: StructureFacts | None) -> Iterator[str]:
    """The structure that was chosen, what was measured of it, and what it falls short of."""
    if facts is None:
        return
    measured = facts.measured
    if facts.instead_of is not None:
        asked_for = facts.instead_of
        yield f"asked for   {asked_for.factory}, which cannot be trained on so few keys: {asked_for.reason}"
    built = f"built in {facts.build_seconds:,.1f} s, {_mib(facts.memory_bytes)}"
    yield f"structure   {facts.factory}{_parameters(facts)}, {built}"
    times = f"one query {measured.latency_p50_ms:.2f} ms (p50), {measured.latency_p99_ms:.2f} ms (p99)"
    recall = f"recall@10 {measured.recall_at_10:.4f}, recall@100 {measured.recall_at_100:.4f}"
    yield f"measured    {recall}, {times}, {measured.speedup:,.1f}x exact search"
    yield f"            on {facts.num_queries:,} {facts.query_source}"
    for shortfall in facts.shortfalls:
        yield f"shortfall   {shortfall}"
    if facts.gpu is not None:
        yield from _gpu_lines(facts.gpu)


def _gpu_lines(facts: GpuFacts) -> Iterator[str]:
    measured = facts.measured
    parameters = (
        f" (probes {facts.search.probes}, rerank {facts.search.rerank})" if facts.kind is not GpuStructure.FLAT else ""
    )
    yield f"on GPUs     {facts.kind}{parameters} on {facts.num_gpus}, built in {facts.build_seconds:,.1f} s"
    times = f"one query {measured.latency_p50_ms:.2f} ms (p50), {measured.latency_p99_ms:.2f} ms (p99)"
    recall = f"recall@10 {measured.recall_at_10:.4f}, recall@100 {measured.recall_at_100:.4f}"
    yield f"measured    {recall}, {times}, {measured.speedup:,.1f}x exact search on the CPU"
    for shortfall in facts.shortfalls:
        yield f"shortfall   {shortfall}"


def front_lines(facts: StructureFacts | None) -> Iterator[str]:
    """What else could be had: the Pareto front of everything that was tried."""
    if facts is None or len(facts.front) < 2:
        return
    yield "tried       recall@10   p50 ms     memory  structure"
    for point in facts.front:
        yield f"            {_point(point)}"


def _point(point: Point) -> str:
    how = f"{point.factory} (probes {point.search.probes}, rerank {point.search.rerank})"
    return f"{point.recall_at_10:9.4f} {point.latency_p50_ms:8.2f} {_mib(point.memory_bytes):>10}  {how}"


def _parameters(facts: StructureFacts) -> str:
    return "" if facts.is_exact else f" (probes {facts.search.probes}, rerank {facts.search.rerank})"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
