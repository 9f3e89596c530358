"""Drives other people's search clients against a service, each as its own documentation has it; as `driver.py` does.

`python -m tests.clients.search_driver ADDRESS IMAGE`, in the environment that `make clients` makes. The cases come one
after the other, so that those which change points are the last.
"""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import Any

from tests.clients import driver
from tests.clients.driver import KEY, MODEL, Service

CASES: dict[str, Callable[[Service], Any]] = {}
FIRST, SECOND = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26", "a3f2a6a2-0c1b-4c8f-9d3e-2b1a7c9d0e11"
COLLECTION = "default"


def case(work: Callable[[Service], Any]) -> Callable[[Service], Any]:
    """Adds a case of the function's name."""
    CASES[work.__name__] = work
    return work


@cache
def qdrant(service: Service) -> Any:
    """Qdrant's own client, which asks for the version when it is made."""
    from qdrant_client import QdrantClient

    return QdrantClient(url=service.address, cloud_inference=True, prefer_grpc=False)


def scored(points: Sequence[Any]) -> list[list[Any]]:
    """What a search found: ids and scores."""
    return [[point.id, point.score] for point in points]


def searched(service: Service, query: Any, **options: Any) -> list[list[Any]]:
    """What Qdrant's client finds."""
    return scored(qdrant(service).query_points(COLLECTION, query=query, **options).points)


@case
def qdrant_text(service: Service) -> Any:
    from qdrant_client import models

    return searched(service, models.Document(text="a red mug", model=MODEL))


@case
def qdrant_image(service: Service) -> Any:
    from qdrant_client import models

    return searched(service, models.Image(image=service.image_uri, model=MODEL), limit=3)


@case
def qdrant_fused(service: Service) -> Any:
    from qdrant_client import models

    both = {"text": "but blue", "image": service.image_uri}
    return searched(service, models.InferenceObject(object=both, model=MODEL), search_params={"exact": True})


@case
def qdrant_vector_with_threshold(service: Service) -> Any:
    return searched(service, [1.0, 0.5] * 4, score_threshold=0.1, offset=1)


@case
def qdrant_id(service: Service) -> Any:
    return searched(service, "sku-1")


@case
def qdrant_recommend(service: Service) -> Any:
    from qdrant_client import models

    examples = models.RecommendInput(positive=["sku-1", 7], negative=["sku-2"], strategy="average_vector")
    return searched(service, models.RecommendQuery(recommend=examples))


@case
def qdrant_mmr(service: Service) -> Any:
    from qdrant_client import models

    mmr = models.Mmr(diversity=0.7, candidates_limit=4)
    return searched(service, models.NearestQuery(nearest=models.Document(text="mug", model=MODEL), mmr=mmr), limit=3)


@case
def qdrant_filter(service: Service) -> Any:
    from qdrant_client import models

    condition, value, some = models.FieldCondition, models.MatchValue, models.MatchAny
    wanted = models.Filter(
        must=condition(key="price", range=models.Range(gte=5, lt=9)),
        should=[
            condition(key="lang", match=value(value="de")),
            condition(key="tags", match=some(any=["a"])),
        ],
        must_not=[condition(key="brand", match=some(any=["none"])), models.HasIdCondition(has_id=["sku-9"])],
    )
    found = qdrant(service).query_points(
        COLLECTION, query=models.Document(text="mug", model=MODEL), query_filter=wanted, with_vectors=True
    )
    return [[point.id, point.score, point.payload, point.vector] for point in found.points]


@case
def qdrant_batch(service: Service) -> Any:
    from qdrant_client import models

    queries = [models.Document(text=text, model=MODEL) for text in ("a red mug", "a plate")]
    requests = [models.QueryRequest(query=query, limit=2) for query in queries]
    return [scored(one.points) for one in qdrant(service).query_batch_points(COLLECTION, requests=requests)]


@case
def qdrant_groups(service: Service) -> Any:
    from qdrant_client import models

    found = qdrant(service).query_points_groups(
        COLLECTION, "brand", query=models.Document(text="mug", model=MODEL), limit=2, group_size=2
    )
    return [[group.id, scored(group.hits)] for group in found.groups]


@case
def qdrant_collections(service: Service) -> Any:
    client = qdrant(service)
    names = [one.name for one in client.get_collections().collections]
    info = client.get_collection(COLLECTION)
    vectors = info.config.params.vectors
    return [
        names,
        [client.collection_exists(name) for name in (COLLECTION, "other")],
        [vectors.size, vectors.distance.value, info.points_count],
        client.count(COLLECTION).count,
    ]


@case
def qdrant_scroll(service: Service) -> Any:
    client, found, offset = qdrant(service), [], None
    while True:
        points, offset = client.scroll(COLLECTION, limit=2, offset=offset)
        found.append([[point.id, point.payload] for point in points])
        if offset is None:
            return found


@case
def qdrant_retrieve(service: Service) -> Any:
    points = qdrant(service).retrieve(COLLECTION, ["sku-2", "none", 7], with_payload=["lang"], with_vectors=True)
    return [[point.id, point.payload, point.vector] for point in points]


@case
def qdrant_fusion(service: Service) -> Any:
    from qdrant_client import models

    prefetch = models.Prefetch(query=[1.0] * 8)
    return searched(service, models.FusionQuery(fusion=models.Fusion.RRF), prefetch=prefetch)


@case
def qdrant_another_model(service: Service) -> Any:
    from qdrant_client import models

    return searched(service, models.Document(text="mug", model="sentence-transformers/all-minilm-l6-v2"))


@case
def qdrant_other_collection(service: Service) -> Any:
    return qdrant(service).query_points("other", query=[1.0] * 8)


@case
def openai_vector_stores(service: Service) -> Any:
    from openai import OpenAI

    client = OpenAI(base_url=service.v1, api_key=KEY, max_retries=0)
    kinds = [{"type": "eq", "key": "lang", "value": "en"}, {"type": "nin", "key": "price", "value": [9]}]
    wanted: Any = {
        "type": "or",
        "filters": [{"type": "and", "filters": kinds}, {"type": "gt", "key": "price", "value": 6}],
    }
    found = client.vector_stores.search(
        COLLECTION, query="mug", max_num_results=5, filters=wanted, ranking_options={"score_threshold": 0.2}
    )
    both = client.vector_stores.search(COLLECTION, query="but blue", extra_body={"image": service.image_uri})
    return [
        [[one.file_id, one.score, one.attributes, [part.text for part in one.content]] for one in found.data],
        [[one.file_id, one.score] for one in both.data],
    ]


@cache
def clip_retrieval() -> Any:
    """The one module of clip-retrieval that its client is; the package itself imports all that its server needs."""
    package = find_spec("clip_retrieval")
    assert package is not None
    assert package.submodule_search_locations is not None
    (folder,) = package.submodule_search_locations
    spec = spec_from_file_location("clip_client", f"{folder}/clip_client.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip_client(service: Service, **options: Any) -> Any:
    """clip-retrieval's own client."""
    return clip_retrieval().ClipClient(url=f"{service.address}/knn-service", indice_name=COLLECTION, **options)


@case
def clip_retrieval_text(service: Service) -> Any:
    options = {"modality": clip_retrieval().Modality.TEXT, "num_images": 3, "deduplicate": False}
    found: Any = clip_client(service, **options).query(text="a red mug")
    return found


@case
def clip_retrieval_image(service: Service) -> Any:
    found: Any = clip_client(service).query(image=str(service.image))
    return found


@case
def clip_retrieval_vector(service: Service) -> Any:
    found: Any = clip_client(service).query(embedding_input=[1.0, 0.5] * 4)
    return found


@case
def clip_retrieval_address(service: Service) -> Any:
    found: Any = clip_client(service).query(image="http://localhost/red.png")
    return found["message"]


@case
def qdrant_upsert(service: Service) -> Any:
    """Stores a fused item, a text and a vector, changes their payloads, and deletes all but one of them."""
    from qdrant_client import models

    client = qdrant(service)
    both = {"text": "but blue", "image": service.image_uri}
    points = [
        models.PointStruct(id=41, vector=models.InferenceObject(object=both, model=MODEL), payload={"n": {"a": 1}}),
        models.PointStruct(id=FIRST, vector=models.Document(text="a hat", model=MODEL), payload={"n": 2, "old": 1}),
        models.PointStruct(id=SECOND, vector=[2.0] + [0.0] * 7),
    ]
    statuses = [client.upsert(COLLECTION, points).status.value]
    client.set_payload(COLLECTION, {"n": {"b": 2}, "kept": True}, points=[41])
    client.delete_payload(COLLECTION, ["old"], points=[FIRST])
    client.overwrite_payload(COLLECTION, {"own": "x"}, points=[SECOND])
    stored = client.retrieve(COLLECTION, [41, FIRST, SECOND], with_vectors=True)
    client.delete(COLLECTION, models.FilterSelector(filter=models.Filter(must=[own("x")])))
    client.delete(COLLECTION, [FIRST])
    left = [point.id for point in client.retrieve(COLLECTION, [41, FIRST, SECOND])]
    return [statuses, [[point.id, point.payload, point.vector] for point in stored], left]


def own(value: str) -> Any:
    """A condition on the payload's member of that name."""
    from qdrant_client import models

    return models.FieldCondition(key="own", match=models.MatchValue(value=value))


@case
def qdrant_upsert_of_another_width(service: Service) -> Any:
    from qdrant_client import models

    return qdrant(service).upsert(COLLECTION, [models.PointStruct(id=1, vector=[1.0, 2.0])])


@case
def langchain_qdrant(service: Service) -> Any:
    from langchain_openai import OpenAIEmbeddings
    from langchain_qdrant import QdrantVectorStore

    embedding = OpenAIEmbeddings(model=MODEL, base_url=service.v1, api_key=KEY, check_embedding_ctx_length=False)
    store = QdrantVectorStore(qdrant(service), COLLECTION, embedding)
    store.add_texts(["a red lamp", "a green lamp"], [{"colour": "red"}, {"colour": "green"}], ids=[FIRST, SECOND])
    found = store.similarity_search_with_score("a red lamp", k=2, filter=of_langchain("red"))
    diverse = store.max_marginal_relevance_search("a lamp", k=2, fetch_k=4)
    kept = [[one.page_content, one.metadata["colour"]] for one in store.get_by_ids([SECOND])]
    deleted = store.delete([FIRST, SECOND])
    left = len(store.get_by_ids([FIRST, SECOND]))
    return [[[one.page_content, one.metadata, score] for one, score in found], len(diverse), kept, deleted, left]


def of_langchain(colour: str) -> Any:
    """A filter of documents that LangChain stored."""
    from qdrant_client import models

    return models.Filter(must=[models.FieldCondition(key="metadata.colour", match=models.MatchValue(value=colour))])


@case
def llama_index_qdrant(service: Service) -> Any:
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.vector_stores.qdrant import QdrantVectorStore

    embedding = OpenAILikeEmbedding(model_name=MODEL, api_base=service.v1, api_key=KEY)
    store = QdrantVectorStore(COLLECTION, client=qdrant(service))
    texts = {FIRST: "a red chair", SECOND: "a green chair"}
    nodes = [
        TextNode(id_=name, text=text, metadata={"seats": seats}, embedding=embedding.get_text_embedding(text))
        for seats, (name, text) in enumerate(texts.items(), 1)
    ]
    store.add(nodes)
    sought = embedding.get_query_embedding("a red chair")
    filters = MetadataFilters(filters=[MetadataFilter(key="seats", value=1, operator=">=")])
    found = store.query(VectorStoreQuery(query_embedding=sought, similarity_top_k=2, filters=filters))
    kept = [node.get_content() for node in store.get_nodes(node_ids=[SECOND])]
    store.delete_nodes([FIRST, SECOND])
    left = len(store.get_nodes(node_ids=[FIRST, SECOND]))
    return [found.ids, found.similarities, [node.get_content() for node in found.nodes], kept, left]


if __name__ == "__main__":
    driver.main(*sys.argv[1:], cases=CASES)
