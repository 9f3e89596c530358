"""Other people's clients, real and unmodified, get the vectors of POST /embed, or an error that says why not."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from anykey.encoder.item import Item
from tests.clients import driver
from tests.guards.checkout import ROOT
from tests.service_inputs import as_base64, png
from tests.serving import MemoryIndex, serving, stored
from tests.unit.service.test_embed import PromptedEncoder

PYTHON = ROOT / os.environ.get("ANYKEY_CLIENTS", ".venv-clients") / "bin" / "python"
PAGE = ROOT / "docs" / "clients.md"
RED = png((250, 40, 0))
FIRST, SECOND = ({"text": text} for text in driver.TEXTS)
IMAGE = {"image": as_base64(RED)}
FUSED = {"text": driver.TEXTS[1], **IMAGE}
RERANKED = ["mm", *driver.TEXTS]


@pytest.fixture(scope="module")
def service() -> Iterator[httpx.Client]:
    encoder = PromptedEncoder(widths=(6, 8))
    with serving(encoder, MemoryIndex(encoder, [stored("note", Item(text="a note"))])) as client:
        yield client


@pytest.fixture(scope="module")
def outcomes(service: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each case of the driver gave or raised."""
    assert PYTHON.exists(), "the clients are not installed; run `make clients`"
    image = tmp_path_factory.mktemp("clients") / "red.png"
    image.write_bytes(RED)
    command = [str(PYTHON), str(Path(driver.__file__)), str(service.base_url).rstrip("/"), str(image), str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=image.parent)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def gave(outcomes: dict[str, dict[str, Any]], name: str) -> Any:
    """What a case gave."""
    outcome = outcomes[name]
    assert "gave" in outcome, outcome.get("trace")
    return outcome["gave"]


def vectors(
    service: httpx.Client, items: Sequence[dict[str, Any]], role: str = "query", width: int | None = None
) -> NDArray[np.float32]:
    """What POST /embed gives for these items."""
    body = {"items": list(items), "role": role} | ({} if width is None else {"width": width})
    return np.array([one["vector"] for one in service.post("/embed", json=body).json()["items"]], np.float32)


VECTORS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "openai_texts": ([FIRST, SECOND], "query"),
    "openai_texts_as_numbers": ([FIRST, SECOND], "query"),
    "openai_one_text": ([FIRST], "query"),
    "openai_keys": ([FIRST, SECOND], "key"),
    "openai_fused_by_messages": ([FUSED], "query"),
    "openai_of_a_named_index": ([FIRST, SECOND], "query"),
    "cohere_queries": ([FIRST, SECOND], "query"),
    "cohere_documents": ([FIRST, SECOND], "key"),
    "cohere_images": ([IMAGE], "key"),
    "cohere_fused": ([FUSED], "query"),
    "voyage_texts": ([FIRST, SECOND], "query"),
    "voyage_documents": ([FIRST, SECOND], "key"),
    "langchain_openai": ([FIRST, SECOND, FIRST], "query"),
    "llama_index_openai_like": ([FIRST, SECOND, FIRST], "query"),
    "llama_index_jina_texts": ([FIRST, SECOND], "key"),
    "llama_index_jina_image": ([IMAGE], "query"),
    "haystack_openai": ([FIRST], "query"),
    "haystack_openai_documents": ([FIRST, SECOND], "query"),
    "infinity_made_client": ([FIRST, SECOND], "query"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_client_gets_the_vectors_of_embed(
    name: str, outcomes: dict[str, dict[str, Any]], service: httpx.Client
) -> None:
    items, role = VECTORS[name]
    np.testing.assert_array_equal(np.array(gave(outcomes, name), np.float32), vectors(service, items, role))


def test_the_vectors_that_are_compared_differ(service: httpx.Client) -> None:
    items = [FIRST, SECOND, IMAGE, FUSED]
    found = np.concatenate([vectors(service, items, role) for role in ("query", "key")])
    assert len(np.unique(found.round(4), axis=0)) == len(found), "else a client could get another's without being seen"


# These clients write the image anew, as WebP or JPEG, so that its colour may differ by one or two of 255.
REENCODED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "voyage_fused": ([FUSED], "query"),
    "voyage_images_as_keys": ([IMAGE], "key"),
    "infinity_vision": ([FIRST, SECOND, IMAGE], "query"),
    "haystack_jina_images": ([IMAGE], "query"),
}


@pytest.mark.parametrize("name", REENCODED)
def test_a_client_that_writes_images_anew_gets_the_vectors_of_embed(
    name: str, outcomes: dict[str, dict[str, Any]], service: httpx.Client
) -> None:
    items, role = REENCODED[name]
    np.testing.assert_allclose(gave(outcomes, name), vectors(service, items, role), atol=0.02)


def test_a_client_may_have_shorter_vectors(outcomes: dict[str, dict[str, Any]], service: httpx.Client) -> None:
    expected = vectors(service, [FIRST, SECOND], width=6)
    np.testing.assert_array_equal(np.array(gave(outcomes, "openai_dimensions"), np.float32), expected)


def test_signs_are_those_of_the_vectors(outcomes: dict[str, dict[str, Any]], service: httpx.Client) -> None:
    expected = vectors(service, [FIRST, SECOND])
    bits = np.packbits(expected > 0, axis=1)
    cohere = gave(outcomes, "cohere_signs")
    np.testing.assert_array_equal(cohere["ubinary"], bits)
    np.testing.assert_array_equal(cohere["binary"], bits.astype(int) - 128)
    sent = [np.frombuffer(base64.b64decode(text), "<f4") for text in cohere["base64"]]
    np.testing.assert_array_equal(sent, expected)
    np.testing.assert_array_equal(gave(outcomes, "voyage_signs"), bits)
    np.testing.assert_array_equal(gave(outcomes, "llama_index_jina_signs"), expected > 0)


@pytest.mark.parametrize("name", ["cohere_rerank", "voyage_rerank", "infinity_made_client_rerank"])
def test_documents_are_ranked_by_their_cosine(
    name: str, outcomes: dict[str, dict[str, Any]], service: httpx.Client
) -> None:
    query_D = vectors(service, [FIRST])[0]
    scores_N = vectors(service, [{"text": text} for text in RERANKED], "key") @ query_D
    order = np.argsort(-scores_N, kind="stable")
    found = gave(outcomes, name)
    assert [index for index, _ in found] == order[: len(found)].tolist()
    np.testing.assert_allclose([score for _, score in found], scores_N[order][: len(found)], atol=1e-6)


def test_usage_counts_tokens_and_pixels(outcomes: dict[str, dict[str, Any]]) -> None:
    first, second = (len(text.split()) for text in driver.TEXTS)
    assert gave(outcomes, "openai_usage") == [first + second, first + second, "anykey"]
    assert gave(outcomes, "cohere_tokens") == first + second
    assert gave(outcomes, "voyage_usage") == [first, 64, 0, first + second + 5]


def test_the_served_models_are_named(outcomes: dict[str, dict[str, Any]]) -> None:
    assert gave(outcomes, "openai_models") == [["anykey", "fake"], "anykey"]
    assert gave(outcomes, "infinity_made_client_health")


REFUSED = {
    "openai_other_dimensions": "dimensions: model fake gives vectors of 6, 8 numbers, got 5",
    "openai_token_ids": "input[0]: token ids are not read; send the text",
    "openai_another_model": "model 'text-embedding-3-small' is not served; known: anykey, fake",
    "cohere_int8": "embedding_types: known are float, binary, ubinary, got 'int8'",
    "voyage_another_model": "model 'voyage-3' is not served",
    "llama_index_jina_late_chunking": "late_chunking: each item is embedded on its own",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_client_shows_why_it_was_refused(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    assert "gave" not in outcomes[name]
    assert REFUSED[name] in outcomes[name]["raised"].replace("\\'", "'")


def test_the_examples_of_the_documentation_give_what_they_say(
    outcomes: dict[str, dict[str, Any]], service: httpx.Client
) -> None:
    made = [gave(outcomes, name) for name in outcomes if name.startswith("example")]
    openai, cohere, voyage, langchain, llama_index, haystack, infinity = made
    fused = {"text": "but blue", **IMAGE}
    texts = vectors(service, [{"text": "a red mug"}, {"text": "a blue one"}])
    np.testing.assert_array_equal(np.array(openai["vectors"], np.float32), texts)
    np.testing.assert_array_equal(np.array([openai["fused"]], np.float32), vectors(service, [fused]))
    np.testing.assert_array_equal(np.array([cohere["fused"]], np.float32), vectors(service, [fused], "key"))
    np.testing.assert_allclose([voyage["fused"]], vectors(service, [fused], "key"), atol=0.02)
    np.testing.assert_allclose(infinity["vectors"], vectors(service, [IMAGE]), atol=0.02)
    assert (langchain["langchain"], llama_index["llama_index"]) == ("OpenAIEmbeddings", "OpenAILikeEmbedding")
    assert haystack["haystack"] == "OpenAITextEmbedder"


def test_each_case_is_judged(outcomes: dict[str, dict[str, Any]]) -> None:
    others = {"openai_dimensions", "cohere_signs", "voyage_signs", "llama_index_jina_signs", "openai_usage"}
    others |= {"cohere_tokens", "voyage_usage", "openai_models", "infinity_made_client_health"}
    others |= {"cohere_rerank", "voyage_rerank", "infinity_made_client_rerank"}
    judged = {name for name in outcomes if not name.startswith("example")}
    assert judged == set(VECTORS) | set(REENCODED) | set(REFUSED) | others


def test_mteb_measures_the_vectors_of_embed(service: httpx.Client) -> None:
    from mteb.models.openai_wrappers import OpenAIAPIEncodeWrapper

    address = str(service.base_url).rstrip("/")
    model = OpenAIAPIEncodeWrapper(address, "anykey", modalities=["text", "image"])
    picture = Image.open(BytesIO(RED))
    batch: Any = {"text": [*driver.TEXTS, ""], "image": [None, picture, picture]}
    asked: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "", "show_progress_bar": False}
    np.testing.assert_array_equal(model.encode([batch], **asked), vectors(service, [FIRST, FUSED, IMAGE]))
    plain = OpenAIAPIEncodeWrapper(address, "anykey", use_chat_template=False)
    texts: Any = {"text": driver.TEXTS}
    np.testing.assert_array_equal(plain.encode([texts], **asked), vectors(service, [FIRST, SECOND]))
