"""The service's settings: flag, environment variable (`ANYKEY_...`), TOML file or default, in that order."""

import ipaddress
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from anykey.encoder.settings import BackendName, PrecisionName
from anykey.index.milvus.address import parse_address
from anykey.index.referred import root_of
from anykey.program.image_limits import ImageLimitSettings
from anykey.program.settings import ProgramSettings
from anykey.service.access.api_keys import AccessScope, ScopeName
from anykey.service.requests.image_hosts import AllowedHost
from anykey.service.requests.proxy import parse_prefix, parse_proxies, told_from_own

MIB = 1024 * 1024
LIMITS_AND_LARGEST = (
    ("max_bodies_bytes", "max_body_bytes"),
    ("max_rerank_queue", "max_rerank_top"),
    ("max_embed_queue", "max_embed_items"),
)


def parse_rerankers(assignments: Sequence[str]) -> dict[str, str]:
    """Reads `NAME=DIRECTORY` each; gives directories by name.

    Raises:
        ValueError: something else came, or a name twice.
    """
    directories: dict[str, str] = {}
    for assignment in assignments:
        name, _, directory = (part.strip() for part in assignment.partition("="))
        if not name or not directory or name in directories:
            raise ValueError(f"expected NAME=DIRECTORY, each NAME once, got '{assignment}'")
        directories[name] = directory
    return directories


def parse_token_scopes(assignments: Sequence[str]) -> dict[str, AccessScope]:
    """Reads `VALUE=SCOPE` each; gives scopes by value.

    Raises:
        ValueError: something else came, or a value twice.

    >>> parse_token_scopes(["urn:shop:read=search"])
    {'urn:shop:read': <AccessScope.SEARCH: 'search'>}
    """
    scopes: dict[str, AccessScope] = {}
    known = [scope.value for scope in AccessScope]
    for assignment in assignments:
        value, _, scope = (part.strip() for part in assignment.rpartition("="))
        if not value or scope not in known or value in scopes:
            raise ValueError(f"expected VALUE=SCOPE with {', '.join(known)}, each VALUE once, got '{assignment}'")
        scopes[value] = AccessScope(scope)
    return scopes


# What an index of several may have in place of the service's own.
OF_ONE_INDEX = (
    "checkpoint",
    "index",
    "release",
    "release_switch",
    "warm_queries",
    "warm_s",
    "milvus_token",
    "image_root",
    "writable",
    "writer_idle_s",
    "check_index_s",
    "search_device",
    "search_gpu_memory_mib",
    "search_threads",
    "device",
    "fusion",
    "width",
    "backend",
    "precision",
)
ONLY_INDEX = "default"  # what the only index is called
LIMIT = re.compile(r"[1-9][0-9]{0,14} ?(/|per) ?([1-9][0-9]{0,5} ?)?(second|minute|hour|day)s?")
_INDEX_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class ServiceSettings(ImageLimitSettings, ProgramSettings):
    """Serves indexes over HTTP: search, keys, embeddings, and the clients of others; /docs shows every address."""

    model_config = SettingsConfigDict(env_prefix="ANYKEY_")

    checkpoint: str = Field(
        "runs/demo/best",
        min_length=1,
        description="checkpoint directory that embeds the queries; must be the one the index was built with",
    )
    index: str = Field(
        "indexes/demo",
        min_length=1,
        description="index directory, whose published version is served, or a Milvus collection: "
        "http://HOST:PORT/COLLECTION, or FILE.db/COLLECTION for Milvus Lite",
    )
    indexes: Path | None = Field(
        None,
        description="TOML file that names several indexes, each with settings of its own; in place of checkpoint and "
        "index. See docs/operations.md",
    )
    release: Path | None = Field(
        None,
        description="directory of releases, whose current one is served and followed; in place of checkpoint and index",
    )
    release_switch: Literal["beside", "swap"] = Field(
        "beside",
        description="beside: another release is loaded beside the one that answers and takes over between requests; "
        "swap: the one that answers is closed first, where memory holds one only, and requests in between get 503",
    )
    memory_limit_mib: int | None = Field(
        None,
        ge=1,
        description="memory that this process may have of its own, in MiB, where that is less than a container's limit "
        "and the machine's; nothing is loaded beside what answers that would take it beyond",
    )
    warm_queries: int = Field(
        32, ge=0, le=10_000, description="latest queries that another release is asked before it takes over; 0 for none"
    )
    warm_s: float = Field(10.0, ge=0, le=600, description="longest time that another release is warmed, in seconds")
    milvus_token: SecretStr | None = Field(
        None, description="credentials for a Milvus server, such as user:password; better in the environment"
    )
    image_root: list[str] | None = Field(
        None,
        description="folders and URLs below which images may be read that the index only refers to; default: those "
        "that are recorded of the index when it is built, and when `load` and `restore` are told of them",
    )
    check_index_s: float = Field(
        2.0, ge=0.01, le=3600, description="how often the index is asked whether it can answer, in seconds"
    )
    search_device: str = Field(
        "auto", min_length=1, description="where searches run: auto (on GPUs that FAISS finds), cpu, cuda, cuda:0,1"
    )
    search_gpu_memory_mib: int = Field(
        256, ge=16, description="memory on each GPU that searches may take beyond the vectors, in MiB"
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="address or name to listen on, localhost for IPv4 and IPv6; 0.0.0.0 for every interface, "
        ":: for every one of IPv6 and IPv4",
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one and logs it")
    api_keys: Path | None = Field(
        None,
        description="file of API keys, one of which each request must bring; `anykey-serve keys` makes and revokes "
        "them, which is taken without restart. Default: none, which is refused where other machines reach host",
    )
    anonymous_scopes: list[ScopeName] = Field(
        default_factory=list,
        description="where there are API keys, what callers without one may do all the same: search, embed, write",
    )
    oidc_issuer: str | None = Field(
        None,
        min_length=1,
        description="identity provider whose signed tokens (JWT) are taken in the place of an API key, as their iss "
        "says it; with oidc_audience and oidc_keys. Default: none is taken",
    )
    oidc_audience: list[str] = Field(
        default_factory=list, description="what the aud of such a token must be, or one of these"
    )
    oidc_keys: str | None = Field(
        None,
        min_length=1,
        description="where the provider publishes its keys: the address that its configuration calls jwks_uri, or a "
        "file of the same (JWKS)",
    )
    oidc_scopes: list[str] = Field(
        default_factory=lambda: [f"anykey:{scope}={scope}" for scope in AccessScope],
        description="what a value of the claim of scopes lets its holder do, VALUE=SCOPE each",
    )
    oidc_scopes_claim: str = Field(
        "scope", min_length=1, description="claim that has the scopes; of a nested one the names with dots between"
    )
    oidc_indexes_claim: str | None = Field(
        None,
        min_length=1,
        description="claim that names the indexes that a token is for, without which it is for none; default: tokens "
        "are for all",
    )
    oidc_leeway_s: int = Field(
        30, ge=0, le=600, description="by how much the clocks of the provider and of the service may differ"
    )
    allow_anonymous: bool = Field(
        False,
        description="where there are no API keys: lets everybody who reaches the service do everything, although other "
        "machines reach its host",
    )
    limit_requests: list[str] = Field(
        default_factory=list,
        description="most requests of one caller, by its API key or its address: such as 20/second,1000/hour; more are "
        "refused with 429. Default: no limit",
    )
    limit_images: list[str] = Field(
        default_factory=list, description="most images in requests of one caller, such as 100/minute; default: no limit"
    )
    limit_bytes: list[str] = Field(
        default_factory=list,
        description="most bytes in bodies of requests of one caller, such as 100000000/minute; default: no limit",
    )
    image_urls: list[str] = Field(
        default_factory=list,
        description="hosts from which images are fetched that a query or item names by an address: images.example, "
        "*.cdn.example, host:8443, * for all; https, unless http://host is named. Default: none is fetched",
    )
    image_url_networks: list[str] = Field(
        default_factory=list,
        description="networks whose addresses such hosts may have although they are not public, such as 10.1.0.0/16",
    )
    max_image_urls: int = Field(8, ge=1, le=1000, description="most images that a request may name by addresses")
    image_url_timeout_ms: float = Field(
        5000, ge=1, le=60_000, description="longest time to fetch one image by its address, redirects included"
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file of a certificate, with those that it was signed by behind it: the service speaks HTTPS; "
        "a renewed file is taken without restart",
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, without a password")
    root_path: str = Field(
        "",
        description="prefix under which a proxy shows the service, such as /anykey, whether it cuts that off or not; "
        "a trusted proxy may say it in X-Forwarded-Prefix instead",
    )
    forwarded_allow_ips: list[str] = Field(
        default_factory=lambda: ["127.0.0.1", "::1"],
        description="addresses and networks of proxies whose X-Forwarded-Prefix and X-Forwarded-For are believed; * "
        "for all",
    )
    keep_alive_s: int = Field(
        75, ge=1, le=86_400, description="how long an idle connection is kept; longer than the proxy in front keeps it"
    )
    max_connections: int = Field(
        1024,
        ge=16,
        le=1_000_000,
        description="most connections open at a time; one more takes the place of one that asks nothing, or is "
        "answered 503",
    )
    rerankers: list[str] = Field(
        default_factory=list,
        description="cross-encoders of sentence-transformers that a search may name in rerank: NAME=DIRECTORY each",
    )
    device: str = Field(
        "auto", min_length=1, description="device of the encoder and the rerankers: auto, cpu, cuda, cuda:1, mps"
    )
    fusion: Literal["raw", "unit"] | None = Field(
        None,
        description="how image and text features are added, as the index has it; default: as the checkpoint has it",
    )
    width: int | None = Field(
        None,
        ge=1,
        description="numbers that are kept of a vector, for models that were trained to be cut (Matryoshka); as it was "
        "given when the index was built",
    )
    backend: BackendName = Field(
        "auto", description="library that computes the encoder; auto: the fastest here that gives float32's vectors"
    )
    precision: PrecisionName = Field(
        "auto",
        description="number format of the encoder; auto: as the backend, or 16 bits on a GPU and fp32 elsewhere for "
        "one that is named",
    )

    max_k: int = Field(1000, ge=1, le=100_000, description="most hits one request may ask for")
    max_depth: int = Field(
        10_000,
        ge=1,
        le=100_000,
        description="how far down a ranking requests may ask (offset + k), and groups are looked for",
    )
    snapshot_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="how long the moment of an answer is kept for requests that name its snapshot, in seconds after "
        "the last answer of it; 0: not at all",
    )
    max_snapshots: int = Field(
        32, ge=1, le=1000, description="most moments that are kept at a time, each with an open connection to the store"
    )
    max_body_bytes: int = Field(
        64 * MIB, ge=1024, description="largest request body; enforced while it arrives, with or without a length"
    )
    max_bodies_bytes: int = Field(
        1024 * MIB,
        ge=1024,
        description="most bytes of the bodies of all requests under way; what comes on top is refused with 429",
    )
    max_images: int = Field(8, ge=1, le=256, description="most images (frames) in one query, all its parts together")
    max_parts: int = Field(16, ge=1, le=256, description="most parts of one query")
    max_text_chars: int = Field(10_000, ge=1, description="longest text or instruction of a query, in characters")
    max_exclude: int = Field(1000, ge=0, description="most keys one request may exclude")
    max_within: int = Field(10_000, ge=0, description="most keys one request may name as those to search within")

    max_batch_queries: int = Field(
        100, ge=1, le=10_000, description="most queries of one POST /search/batch, which are answered together"
    )
    max_keys: int = Field(
        1000, ge=1, le=100_000, description="most keys of a list that one request may store, or is given"
    )

    writable: bool = Field(
        False,
        description="whether keys may be stored, changed and deleted over HTTP; one process at a time changes an index",
    )
    writer_idle_s: float = Field(
        30.0,
        ge=0,
        le=86_400,
        description="how long the index stays locked for this process after its last change, so that builds and others "
        "may change it meanwhile; 0 from the start to the end",
    )
    undo_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="how long a change can be undone that a request asked to be undoable; 0 for not at all",
    )
    undo_bytes: int = Field(
        64 * 2**20,
        ge=0,
        description="most memory of each index for what such changes replaced; beyond that, the oldest cannot be "
        "undone any more",
    )
    fold_after: int = Field(
        20_000,
        ge=0,
        description="changes after which a new version of the index is made in a process of its own; 0 for never",
    )
    change_deadline_ms: float = Field(
        60_000, ge=1, le=3_600_000, description="longest time from the whole request read to its keys stored; then 504"
    )
    change_threads: int = Field(
        max(1, min(4, (os.cpu_count() or 1) // 2)),
        ge=1,
        le=256,
        description="threads that parse bodies and decode images of keys that are to be stored",
    )
    max_queue_changes: int = Field(
        64,
        ge=1,
        le=100_000,
        description="most keys that are decoded or wait for the model at a time, before they are stored; others wait",
    )
    max_batch_changes: int = Field(
        4,
        ge=1,
        le=4096,
        description="most keys embedded in one batch while searches come, which wait for one such batch at most",
    )
    max_change_wait_ms: float = Field(
        250,
        ge=0,
        le=60_000,
        description="so often a batch of keys is embedded although searches wait, so that changes get on at all",
    )

    max_batch_items: int = Field(32, ge=1, le=4096, description="most queries embedded in one encoder batch")
    max_batch_tokens: int = Field(
        40_000,
        ge=1,
        description="most image and text tokens of the queries in one encoder batch, which bound its memory and time; "
        "a query that has more is a batch of its own",
    )
    max_wait_ms: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="how long an idle encoder waits for queries that are being decoded, so that they share its batch; "
        "0: not at all. A query that comes alone is never held up",
    )
    max_queue_items: int = Field(
        256, ge=1, le=100_000, description="most queries waiting to be embedded; one more is refused with 429"
    )
    max_embed_items: int = Field(2048, ge=1, le=1_000_000, description="most items that one request may have embedded")
    max_embed_queue: int = Field(
        8192,
        ge=1,
        le=10_000_000,
        description="most items of requests to embed under way together; what comes on top is refused with 429",
    )
    embed_deadline_ms: float = Field(
        60_000,
        ge=1,
        le=3_600_000,
        description="longest time from a whole request to embed read to its vectors; then 504",
    )
    model_names: list[str] = Field(
        default_factory=list,
        description="more names by which other people's clients may ask for the encoder, such as ViT-B-32__openai; "
        "they are answered with its vectors, whatever they expect",
    )
    max_rerank_top: int = Field(100, ge=1, le=10_000, description="most hits that one request may have reranked")
    max_rerank_tokens: int = Field(
        512,
        ge=16,
        le=131_072,
        description="tokens of a query and a key's text together that a reranker reads at most; longer ones are cut",
    )
    max_rerank_image_px: int = Field(
        768,
        ge=28,
        le=4096,
        description="what the longer side of an image is shrunk to for a reranker that reads images",
    )
    max_rerank_batch_tokens: int = Field(
        8192, ge=16, description="most tokens that a reranker reads in one batch, which bound its memory and time"
    )
    max_rerank_queue: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="most pairs of a query and a key waiting for one reranker; more are refused with 429",
    )
    body_deadline_ms: float = Field(
        60_000,
        ge=1,
        le=3_600_000,
        description="longest time for a request's body to arrive whole, then 504, and for what comes before it",
    )
    request_deadline_ms: float = Field(
        10_000, ge=1, le=600_000, description="longest time from the whole request read to its hits; then 504"
    )
    drain_ms: float = Field(
        20_000, ge=0, le=600_000, description="on SIGTERM, longest wait for requests that are under way"
    )
    retry_after_s: int = Field(1, ge=1, le=3600, description="Retry-After sent with 429 and 503")
    decode_threads: int = Field(
        max(1, min(8, os.cpu_count() or 1)),
        ge=1,
        le=256,
        description="threads that decode images of queries; as many again parse bodies",
    )
    search_threads: int = Field(
        2, ge=1, le=256, description="threads that search the index; each uses its share of the cores"
    )
    max_batch_searches: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="most searches that share a call of the index, of those that wait for a thread; 1: none; default: "
        "what is fastest, which is measured within a second at the start and whenever the index has another version",
    )
    image_threads: int = Field(
        8, ge=1, le=256, description="threads that read images which the index only refers to, wherever they are"
    )

    thumbnail_threads: int = Field(
        max(1, min(4, (os.cpu_count() or 1) // 2)), ge=1, le=256, description="threads that make thumbnails of images"
    )
    thumbnail_cache_bytes: int = Field(
        64 * MIB, ge=0, description="room for thumbnails of images that are kept in this process; 0 keeps none"
    )

    cache_entries: int = Field(10_000, ge=0, description="query vectors kept in this process; 0 keeps none")
    cache_ttl_s: float = Field(
        3600, gt=0, description="how long a query vector or an answer is kept, here and in Redis"
    )
    result_cache_bytes: int = Field(
        64 * MIB,
        ge=0,
        description="room for answers that are kept in this process, and served again while the index is as it was; 0 "
        "keeps none, in Redis neither",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="Redis that shares query vectors and answers between processes, redis://host:6379/0; absent: none",
    )
    redis_timeout_ms: float = Field(
        50, ge=1, le=10_000, description="longest wait for Redis; a miss afterwards, never an error"
    )
    redis_pause_s: float = Field(
        5, ge=0, le=3600, description="how long Redis is left alone after it failed or was too slow"
    )

    cors_origins: list[str] = Field(
        default_factory=list, description="web origins that may call from a browser; none by default, * for all"
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of its own for /metrics and /metrics-summary, which asks for no key; 0 picks a free one and "
        "logs it; default: only the service's own port has them",
    )
    metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="address or name that the port for metrics listens on"
    )
    traces_url: str | None = Field(
        None,
        pattern=r"https?://[^@\s]+",
        description="where OpenTelemetry traces go, by OTLP over HTTP, such as http://collector:4318; default: where "
        "OTEL_EXPORTER_OTLP_ENDPOINT says, if it is set, and else there are none; the other OTEL_ variables count, too",
    )
    slow_ms: float = Field(
        1000, ge=0, description="searches that take as long are logged with where their time went; 0: none are"
    )
    audit_log: Path | None = Field(
        None,
        description="file to which a line is added for each key that is stored, changed or deleted: who, when, how; "
        "default: none",
    )
    audit_log_bytes: int = Field(
        64 * MIB, ge=4096, description="an audit log that would have more is renamed, and another one begun"
    )
    audit_log_files: int = Field(10, ge=1, le=10_000, description="most files of the audit log; the oldest goes first")
    query_log: Path | None = Field(
        None,
        description="folder for a log of queries, answers and feedback, with what users sent: read docs/query-log.md "
        "first; default: none",
    )
    query_log_share: float = Field(
        0.1, gt=0, le=1, description="share of the requests whose queries are in the query log"
    )
    query_log_days: float = Field(
        30, gt=0, le=3650, description="how long queries, images and feedback are kept, in days"
    )
    query_log_bytes: int = Field(
        1024 * MIB, ge=2**20, description="room for the lines of the query log; the oldest go first"
    )
    query_log_image_bytes: int = Field(
        0, ge=0, description="room for images of the query log; 0: they are named by their hash alone"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level logged")

    @model_validator(mode="after")
    def check_room(self) -> "ServiceSettings":
        """Refuses limits on all requests together by which the largest one could never be taken."""
        for all_together, largest in LIMITS_AND_LARGEST:
            if getattr(self, all_together) < getattr(self, largest):
                raise ValueError(
                    f"expected {all_together} to be {largest}, {getattr(self, largest)}, or more, "
                    f"got {getattr(self, all_together)}"
                )
        return self

    @model_validator(mode="after")
    def check_access(self) -> "ServiceSettings":
        """Refuses exceptions from keys that there are not."""
        if self.api_keys is None and self.oidc_issuer is None and self.anonymous_scopes:
            raise ValueError("anonymous_scopes: expected api_keys beside it; without keys everybody may do everything")
        return self

    @model_validator(mode="after")
    def check_oidc(self) -> "ServiceSettings":
        """Refuses an identity provider of which not all is said."""
        parts = {"oidc_issuer": self.oidc_issuer, "oidc_audience": self.oidc_audience, "oidc_keys": self.oidc_keys}
        missing = [name for name, value in parts.items() if not value]
        if 0 < len(missing) < len(parts):
            raise ValueError(f"expected oidc_issuer, oidc_audience and oidc_keys together, got no {missing[0]}")
        return self

    @field_validator("oidc_scopes")
    @classmethod
    def check_oidc_scopes(cls, value: list[str]) -> list[str]:
        """Refuses what is no `VALUE=SCOPE`."""
        parse_token_scopes(value)
        return value

    @field_validator("image_urls")
    @classmethod
    def check_image_urls(cls, value: list[str]) -> list[str]:
        """Refuses what is no host."""
        for host in value:
            AllowedHost.read(host)
        return value

    @field_validator("image_url_networks")
    @classmethod
    def check_networks(cls, value: list[str]) -> list[str]:
        """Refuses what is no network."""
        for network in value:
            ipaddress.ip_network(network, strict=False)
        return value

    @model_validator(mode="after")
    def check_tls(self) -> "ServiceSettings":
        """Refuses a certificate without its key, and the reverse."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("expected tls_cert and tls_key together, got one of them")
        return self

    @field_validator("limit_requests", "limit_images", "limit_bytes")
    @classmethod
    def check_limits(cls, value: list[str]) -> list[str]:
        """Refuses what is no number in a time."""
        for limit in value:
            if not LIMIT.fullmatch(limit):
                raise ValueError(f"expected limits such as 100/minute or 1000/2 hours, got '{limit}'")
        return value

    @field_validator("rerankers")
    @classmethod
    def check_rerankers(cls, value: list[str]) -> list[str]:
        """Refuses what is no `NAME=DIRECTORY`."""
        parse_rerankers(value)
        return value

    @field_validator("root_path")
    @classmethod
    def check_root_path(cls, value: str) -> str:
        """Refuses what is no path, and what could not be told from the service's own addresses."""
        return told_from_own(parse_prefix(value))

    @field_validator("forwarded_allow_ips")
    @classmethod
    def check_proxies(cls, value: list[str]) -> list[str]:
        """Refuses what is neither address nor network."""
        parse_proxies(value)
        return value

    @field_validator("image_root")
    @classmethod
    def check_roots(cls, value: list[str] | None) -> list[str] | None:
        """Makes paths absolute, and refuses what is neither a path nor a plain URL."""
        return None if value is None else list(map(root_of, value))

    @field_validator("index")
    @classmethod
    def check_address(cls, value: str) -> str:
        """Refuses an address that names no collection."""
        parse_address(value)
        return value

    @model_validator(mode="after")
    def check_indexes(self) -> "ServiceSettings":
        """Refuses a file of indexes that cannot be read, and one beside an index that is named without it."""
        for name, names in (("indexes", {"checkpoint", "index", "release"}), ("release", {"checkpoint", "index"})):
            also = [other for other in sorted(names & self.model_fields_set) if getattr(self, other) is not None]
            if getattr(self, name) is not None and also:
                raise ValueError(
                    f"{' and '.join(also)}: expected none beside {name}, which says what they are; a variable of the "
                    "environment that is set to nothing counts as unset"
                )
        if self.indexes is not None:
            self.by_index()
        return self

    def by_index(self) -> tuple[dict[str, "ServiceSettings"], str]:
        """The settings of each index by its name, and the name of the default one.

        Raises:
            ValueError: the file that names them cannot be read, or holds something else; says where.
        """
        if self.indexes is None:
            return {ONLY_INDEX: self}, ONLY_INDEX
        tables, default = _read_indexes(self.indexes)
        # Said to be none, as the environment is read for what is left out, and may name the file.
        own = self.model_dump(exclude={"checkpoint", "index", "release"}) | {"indexes": None}
        return {name: self._of_one(name, own, table) for name, table in tables.items()}, default

    def _of_one(self, name: str, own: dict[str, Any], table: Any) -> "ServiceSettings":
        """These settings with those of one index in their place."""
        where = f"{self.indexes}: [indexes.{name}]"
        if not _INDEX_NAME.fullmatch(name):
            raise ValueError(f"{where}: expected a name of at most 64 letters, digits, _ and -")
        if not isinstance(table, dict):
            raise ValueError(f"{where}: expected a table")
        if unknown := sorted(table.keys() - set(OF_ONE_INDEX)):
            raise ValueError(f"{where}: unknown setting '{unknown[0]}'; known are {', '.join(OF_ONE_INDEX)}")
        if "release" not in table and not {"checkpoint", "index"} <= table.keys():
            raise ValueError(f"{where}: expected checkpoint and index, or release")
        try:
            return ServiceSettings(**own | table)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where} {field}: {first['msg'].removeprefix('Value error, ')}") from error


def _read_indexes(path: Path) -> tuple[dict[str, Any], str]:
    """The tables of a file of indexes by name, and the name of the default one."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: {reason}") from error
    tables = content.pop("indexes", None)
    default = content.pop("default", None)
    if content or not isinstance(tables, dict) or not tables:
        raise ValueError(f"{path}: expected default = NAME, and a table [indexes.NAME] for each index")
    if default is None and len(tables) == 1:
        default = next(iter(tables))
    if default not in tables:
        raise ValueError(f"{path}: expected default to be one of {', '.join(tables)}, got {default!a}")
    return {default: tables[default], **tables}, default
