"""Drives other people's clients against a service, each as its own documentation has it, and prints what they give.

Runs in the environment that `make clients` makes, where AnyKey is not installed: `driver.py ADDRESS IMAGE PAGE`. Writes
one JSON object: for each case, and each example of a page, what the client gave, or what it raised. Each case imports
its own client, so that one that cannot be imported is the failure of its own cases.
"""

import base64
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1"}
os.environ |= {"LANGCHAIN_TRACING_V2": "false", "TOKENIZERS_PARALLELISM": "false"}
TEXTS = ["a red mug", "but a rather blue one"]
MODEL = "anykey"
KEY = "any"
CASES: dict[str, Callable[["Service"], Any]] = {}


@dataclass(frozen=True)
class Service:
    """Where the service is, and an image to send it.

    Attributes:
        address: Its base address.
        image: A picture's file.
    """

    address: str
    image: Path

    @property
    def v1(self) -> str:
        """The base address of clients that are told of a version."""
        return f"{self.address}/v1"

    @property
    def image_uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.image.read_bytes()).decode()}"

    @property
    def picture(self) -> Any:
        """The picture, decoded."""
        from PIL import Image

        return Image.open(io.BytesIO(self.image.read_bytes()))


def case(work: Callable[[Service], Any]) -> Callable[[Service], Any]:
    """Adds a case of the function's name."""
    CASES[work.__name__] = work
    return work


def openai_client(service: Service) -> Any:
    """OpenAI's own client."""
    from openai import OpenAI

    return OpenAI(base_url=service.v1, api_key=KEY, max_retries=0)


@case
def openai_texts(service: Service) -> Any:
    """Asks for base64 by itself."""
    return [one.embedding for one in openai_client(service).embeddings.create(model=MODEL, input=TEXTS).data]


@case
def openai_texts_as_numbers(service: Service) -> Any:
    answer = openai_client(service).embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    return [one.embedding for one in answer.data]


@case
def openai_one_text(service: Service) -> Any:
    answer = openai_client(service).embeddings.create(model=MODEL, input=TEXTS[0])
    return [answer.data[0].embedding]


@case
def openai_usage(service: Service) -> Any:
    answer = openai_client(service).embeddings.create(model=MODEL, input=TEXTS)
    return [answer.usage.prompt_tokens, answer.usage.total_tokens, answer.model]


@case
def openai_keys(service: Service) -> Any:
    answer = openai_client(service).embeddings.create(model=MODEL, input=TEXTS, extra_body={"input_type": "document"})
    return [one.embedding for one in answer.data]


@case
def openai_dimensions(service: Service) -> Any:
    return [
        one.embedding for one in openai_client(service).embeddings.create(model=MODEL, input=TEXTS, dimensions=6).data
    ]


@case
def openai_other_dimensions(service: Service) -> Any:
    return openai_client(service).embeddings.create(model=MODEL, input=TEXTS, dimensions=5)


@case
def openai_fused_by_messages(service: Service) -> Any:
    content = [{"type": "image_url", "image_url": {"url": service.image_uri}}, {"type": "text", "text": TEXTS[1]}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "encoding_format": "float"}
    answer = openai_client(service).post("/embeddings", body=body, cast_to=object)
    return [answer["data"][0]["embedding"]]


@case
def openai_token_ids(service: Service) -> Any:
    return openai_client(service).embeddings.create(model=MODEL, input=[[1, 2, 3]])


@case
def openai_another_model(service: Service) -> Any:
    return openai_client(service).embeddings.create(model="text-embedding-3-small", input=TEXTS)


@case
def openai_models(service: Service) -> Any:
    client = openai_client(service)
    return [[one.id for one in client.models.list().data], client.models.retrieve(MODEL).id]


@case
def openai_of_a_named_index(service: Service) -> Any:
    from openai import OpenAI

    client = OpenAI(base_url=f"{service.address}/indexes/default/v1", api_key=KEY, max_retries=0)
    return [one.embedding for one in client.embeddings.create(model=MODEL, input=TEXTS).data]


def cohere_client(service: Service) -> Any:
    """Cohere's own client."""
    import cohere

    return cohere.ClientV2(api_key=KEY, base_url=service.address)


@case
def cohere_queries(service: Service) -> Any:
    answer = cohere_client(service).embed(
        model=MODEL, input_type="search_query", embedding_types=["float"], texts=TEXTS
    )
    return answer.embeddings.float_


@case
def cohere_documents(service: Service) -> Any:
    answer = cohere_client(service).embed(
        model=MODEL, input_type="search_document", embedding_types=["float"], texts=TEXTS
    )
    return answer.embeddings.float_


@case
def cohere_images(service: Service) -> Any:
    answer = cohere_client(service).embed(
        model=MODEL, input_type="image", embedding_types=["float"], images=[service.image_uri]
    )
    return answer.embeddings.float_


@case
def cohere_fused(service: Service) -> Any:
    content = [{"type": "text", "text": TEXTS[1]}, {"type": "image_url", "image_url": {"url": service.image_uri}}]
    answer = cohere_client(service).embed(
        model=MODEL, input_type="search_query", embedding_types=["float"], inputs=[{"content": content}]
    )
    return answer.embeddings.float_


@case
def cohere_signs(service: Service) -> Any:
    kinds = ["binary", "ubinary", "base64"]
    found = (
        cohere_client(service)
        .embed(model=MODEL, input_type="search_query", embedding_types=kinds, texts=TEXTS)
        .embeddings
    )
    return {"binary": found.binary, "ubinary": found.ubinary, "base64": found.base64}


@case
def cohere_tokens(service: Service) -> Any:
    answer = cohere_client(service).embed(
        model=MODEL, input_type="search_query", embedding_types=["float"], texts=TEXTS
    )
    return answer.meta.billed_units.input_tokens


@case
def cohere_int8(service: Service) -> Any:
    return cohere_client(service).embed(model=MODEL, input_type="search_query", embedding_types=["int8"], texts=TEXTS)


@case
def cohere_rerank(service: Service) -> Any:
    answer = cohere_client(service).rerank(model=MODEL, query=TEXTS[0], documents=["mm", *TEXTS], top_n=2)
    return [[one.index, one.relevance_score] for one in answer.results]


def voyage_client(service: Service) -> Any:
    """Voyage's own client."""
    import voyageai

    return voyageai.Client(api_key=KEY, base_url=service.v1)


@case
def voyage_texts(service: Service) -> Any:
    return voyage_client(service).embed(TEXTS, model=MODEL).embeddings


@case
def voyage_documents(service: Service) -> Any:
    return voyage_client(service).embed(TEXTS, model=MODEL, input_type="document").embeddings


@case
def voyage_fused(service: Service) -> Any:
    """Sends the image as WebP."""
    return voyage_client(service).multimodal_embed(inputs=[[TEXTS[1], service.picture]], model=MODEL).embeddings


@case
def voyage_images_as_keys(service: Service) -> Any:
    return (
        voyage_client(service)
        .multimodal_embed(inputs=[[service.picture]], model=MODEL, input_type="document")
        .embeddings
    )


@case
def voyage_usage(service: Service) -> Any:
    found = voyage_client(service).multimodal_embed(inputs=[[TEXTS[0]], [TEXTS[1], service.picture]], model=MODEL)
    return [found.text_tokens, found.image_pixels, found.video_pixels, found.total_tokens]


@case
def voyage_signs(service: Service) -> Any:
    return voyage_client(service).embed(TEXTS, model=MODEL, output_dtype="ubinary").embeddings


@case
def voyage_rerank(service: Service) -> Any:
    found = voyage_client(service).rerank(TEXTS[0], ["mm", *TEXTS], model=MODEL, top_k=2)
    return [[one.index, one.relevance_score] for one in found.results]


@case
def voyage_another_model(service: Service) -> Any:
    return voyage_client(service).embed(TEXTS, model="voyage-3")


@case
def langchain_openai(service: Service) -> Any:
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(model=MODEL, base_url=service.v1, api_key=KEY, check_embedding_ctx_length=False)
    return [*client.embed_documents(TEXTS), client.embed_query(TEXTS[0])]


@case
def llama_index_openai_like(service: Service) -> Any:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    client = OpenAILikeEmbedding(model_name=MODEL, api_base=service.v1, api_key=KEY)
    return [*client.get_text_embedding_batch(TEXTS), client.get_query_embedding(TEXTS[0])]


def llama_index_jina(service: Service, **options: Any) -> Any:
    """Jina's of LlamaIndex, whose address is its caller's."""
    from llama_index.embeddings.jinaai import JinaEmbedding

    client = JinaEmbedding(model=MODEL, api_key=KEY, **options)
    client._api.api_url = f"{service.v1}/embeddings"
    return client


@case
def llama_index_jina_texts(service: Service) -> Any:
    client = llama_index_jina(service, task="retrieval.passage")
    return client.get_text_embedding_batch(TEXTS)


@case
def llama_index_jina_image(service: Service) -> Any:
    return [llama_index_jina(service).get_image_embedding(str(service.image))]


@case
def llama_index_jina_signs(service: Service) -> Any:
    return llama_index_jina(service, encoding_documents="binary").get_text_embedding_batch(TEXTS)


@case
def llama_index_jina_late_chunking(service: Service) -> Any:
    return llama_index_jina(service, late_chunking=True).get_text_embedding_batch(TEXTS)


@case
def haystack_openai(service: Service) -> Any:
    from haystack.components.embedders import OpenAITextEmbedder
    from haystack.utils import Secret

    client = OpenAITextEmbedder(api_key=Secret.from_token(KEY), model=MODEL, api_base_url=service.v1)
    return [client.run(TEXTS[0])["embedding"]]


@case
def haystack_openai_documents(service: Service) -> Any:
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder
    from haystack.utils import Secret

    client = OpenAIDocumentEmbedder(
        api_key=Secret.from_token(KEY), model=MODEL, api_base_url=service.v1, progress_bar=False
    )
    return [one.embedding for one in client.run([Document(content=text) for text in TEXTS])["documents"]]


@case
def haystack_jina_images(service: Service) -> Any:
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.jina import JinaDocumentImageEmbedder

    client = JinaDocumentImageEmbedder(api_key=Secret.from_token(KEY), model=MODEL, base_url=f"{service.v1}/embeddings")
    found = client.run([Document(content="", meta={"file_path": str(service.image)})])
    return [one.embedding for one in found["documents"]]


@case
def infinity_vision(service: Service) -> Any:
    """Sends images as JPEG, and asks for the health before each call."""
    from infinity_client.vision_client import InfinityVisionAPI

    client = InfinityVisionAPI(url=service.address, model=MODEL)
    (texts, _), (images, _) = (
        client.embed(MODEL, TEXTS).result(),
        client.image_embed(MODEL, [service.picture]).result(),
    )
    return [one.reshape(-1).tolist() for one in (*texts, *images)]


def infinity_client(service: Service) -> Any:
    """The client that is made of infinity's OpenAPI document."""
    from infinity_client import Client

    return Client(base_url=service.address, raise_on_unexpected_status=True)


@case
def infinity_made_client(service: Service) -> Any:
    from infinity_client.api.default import embeddings
    from infinity_client.models import OpenAIEmbeddingInputText

    found = embeddings.sync(client=infinity_client(service), body=OpenAIEmbeddingInputText(input_=TEXTS, model=MODEL))
    return [one.embedding for one in found.data]


@case
def infinity_made_client_rerank(service: Service) -> Any:
    from infinity_client.api.default import rerank
    from infinity_client.models import RerankInput

    body = RerankInput(query=TEXTS[0], documents=["mm", *TEXTS], model=MODEL)
    return [[one.index, one.relevance_score] for one in rerank.sync(client=infinity_client(service), body=body).results]


@case
def infinity_made_client_health(service: Service) -> Any:
    from infinity_client.api.default import health

    return health.sync(client=infinity_client(service)).additional_properties["unix"] > 0


def examples(service: Service, page: Path) -> dict[str, dict[str, Any]]:
    """What each example of the documentation leaves in its variables: in one run, as a reader would try them."""
    image = service.picture
    names: dict[str, Any] = {"image_uri": service.image_uri, "image": image}
    outcomes = {}
    blocks = page.read_text("utf-8").split("```python\n")[1:]
    for number, block in enumerate(blocks):
        code = block.partition("```")[0].replace("http://localhost:8000", service.address)
        before = dict(names)
        try:
            exec(compile(code, f"example {number}", "exec"), names)
            made = {name: value for name, value in names.items() if before.get(name) is not value}
            outcomes[f"example {number}"] = {"gave": {name: shown(value) for name, value in made.items()}}
        except Exception as error:
            outcomes[f"example {number}"] = {
                "raised": f"{type(error).__name__}: {error}",
                "trace": traceback.format_exc(),
            }
    return outcomes


def shown(value: Any) -> Any:
    """A value as JSON; what is no vector by its type's name."""
    if isinstance(value, list) and value and hasattr(value[0], "tolist"):
        return [one.reshape(-1).tolist() for one in value]
    is_plain = isinstance(value, list) and all(isinstance(one, int | float | str | list) for one in value)
    return value if is_plain else type(value).__name__


def main(address: str, image: str, page: str, cases: Mapping[str, Callable[[Service], Any]]) -> None:
    """Runs cases, and the examples of a page of the documentation, one after the other."""
    service = Service(address, Path(image))
    outcomes: dict[str, dict[str, Any]] = {}
    for name, work in cases.items():
        try:
            outcomes[name] = {"gave": work(service)}
        except Exception as error:
            outcomes[name] = {"raised": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    sys.stdout.write("\n" + json.dumps(outcomes | examples(service, Path(page))))


if __name__ == "__main__":
    main(*sys.argv[1:], cases=CASES)
