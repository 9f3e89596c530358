"""No engine goes untested because its library is missing where `make setup` installs it."""

from importlib.util import find_spec

import faiss
import pytest


@pytest.mark.parametrize("library", ["pymilvus", "milvus_lite", "ray", "av", "mteb"])
def test_library_of_an_extra_is_installed(library: str) -> None:
    if library == "milvus_lite" and hasattr(faiss, "StandardGpuResources"):
        pytest.skip("Milvus Lite brings FAISS for CPUs, which is not for the same environment as that for GPUs")

    assert find_spec(library) is not None, "run `make setup`; the tests of it would be skipped"
