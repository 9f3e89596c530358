"""How much Milvus is asked for and handed at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What goes into one call; those of a Milvus server as it is installed, and of Milvus Lite.

    Attributes:
        found: Most results of one query of a search, and most records of one look-up (a server's setting
            `quotaAndLimits.limits.maxQueryResultWindow`).
        page_records: Records with payload and vector that are read at once; the largest ones fill 100 MB then, which is
            what a server sends at most.
        batch_records: Records that are stored at once.
        batch_bytes: Bytes of them, about; a server takes 64 MiB at once.
        deleted: Keys that are deleted at once.
        flush_after: Records that Milvus Lite keeps in memory; it searches those in files ten times as fast.
        listed_by_lite: Names of keys that an expression for Milvus Lite lists beside other conditions; it goes through
            such a list once per record, if lists of terms or pools are looked at too.
    """

    found: int = 16_384
    page_records: int = 500
    batch_records: int = 5_000
    batch_bytes: int = 16 * 2**20
    deleted: int = 5_000
    flush_after: int = 1_000
    listed_by_lite: int = 100


AS_INSTALLED = Limits()
