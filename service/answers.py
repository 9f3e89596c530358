"""What is sent of keys: written in the thread that read them, so that a long answer holds up no other request."""

from collections.abc import Sequence

from anykey.index.hits import Hit, Payload, StoredKey
from anykey.service.address import image_urls
from anykey.service.schemas import HitPayload, KeyResponse, SearchResponse, WireHit

NO_HITS = b'{"hits":[]'


def write_hits(prefix: str, hits: Sequence[Hit], rerank_scores: Sequence[float | None] | None = None) -> bytes:
    """The members of the list of hits as JSON, best first.

    Each is written on its own: between two of them other threads may run.

    Args:
        prefix: What a proxy put before the service's addresses.
        hits: The hits.
        rerank_scores: A reranker's, for each hit; absent: none was asked for.
    """
    scores = rerank_scores or [None] * len(hits)
    pairs = zip(hits, scores, strict=True)
    return b",".join(_wire_hit(prefix, hit, score).model_dump_json().encode() for hit, score in pairs)


def with_hits(answer: SearchResponse, written: bytes) -> bytes:
    """An answer as JSON.

    Args:
        answer: All but the hits.
        written: Those, as `write_hits` gives them.
    """
    rest = answer.model_dump_json().encode()
    assert rest.startswith(NO_HITS)
    return NO_HITS[:-1] + written + rest[len(NO_HITS) - 1 :]


def write_key(prefix: str, stored: StoredKey) -> bytes:
    """One key as JSON."""
    payload = _wire_payload(prefix, stored.key, stored.payload)
    answer = KeyResponse(key=stored.key, modality=stored.modality, pools=list(stored.pools), payload=payload)
    return answer.model_dump_json().encode()


def _wire_hit(prefix: str, hit: Hit, rerank_score: float | None) -> WireHit:
    payload = _wire_payload(prefix, hit.key, hit.payload)
    return WireHit(
        key=hit.key, score=hit.score, rerank_score=rerank_score, rank=hit.rank, modality=hit.modality, payload=payload
    )


def _wire_payload(prefix: str, key: str, payload: Payload) -> HitPayload:
    addresses = image_urls(prefix, key, payload.num_images)
    return HitPayload(text=payload.text, metadata=payload.metadata, image_urls=addresses)
