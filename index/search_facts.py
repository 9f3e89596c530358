"""How searches were made: what the search itself notes where it is asked to, so that nothing of it is a guess."""

from dataclasses import dataclass


@dataclass
class SearchFacts:
    """What a moment notes of its searches, once `Moment.explain` was called; of several, counts and times are summed.

    Attributes:
        structure: What found the keys by a vector: `exact`, a FAISS factory string, or Milvus' name of its structure,
            behind `gpu` if GPUs searched; `None` where none was looked for.
        is_exact: Whether every key of the scope was compared.
        num_searches: How many searches were made.
        num_keys: Keys of the index.
        num_in_scope: Those that the scope left to be found; `None` where that was not counted.
        num_compared: Vectors, or codes of them, that the structure's part of the search compared with the queries; of
            inverted lists, all that they have. `None` where the structure does not tell: graphs, GPUs, Milvus.
        num_reranked: Candidates of the structure whose exact scores decided.
        num_recent: Keys of the scope that are newer than the published version; each is compared with each query.
        num_with_words: Keys of the scope that have some of the words that were looked for; `None` where none were.
        is_scope_looked_up: Whether the scope's keys were looked up first, so that only they were searched.
        scope_s: How long that took.
        compare_s: How long comparing took.
        words_s: How long finding keys by their words and joining rankings took.
        payload_s: How long reading what the hits carry took.
        facets_s: How long counting facets took.
        counts_vectors: Whether it is told how many vectors lists have, which takes another look at them.
    """

    structure: str | None = None
    is_exact: bool = True
    num_searches: int = 0
    num_keys: int = 0
    num_in_scope: int | None = None
    num_compared: int | None = 0
    num_reranked: int = 0
    num_recent: int = 0
    num_with_words: int | None = None
    is_scope_looked_up: bool = False
    scope_s: float = 0.0
    compare_s: float = 0.0
    words_s: float = 0.0
    payload_s: float = 0.0
    facets_s: float = 0.0
    counts_vectors: bool = True

    def compared(self, num_vectors: int | None) -> None:
        """Notes that so many vectors were compared; `None`: nobody knows how many."""
        if self.num_compared is not None:
            self.num_compared = None if num_vectors is None else self.num_compared + num_vectors
