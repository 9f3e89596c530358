"""The examples in docstrings give what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.guards.checkout import ROOT, modules

WITH_EXAMPLES = [path.relative_to(ROOT) for path in modules(ROOT) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_the_examples_give_what_they_say(path: Path) -> None:
    module = import_module(".".join(("anykey", *path.with_suffix("").parts)))
    done = doctest.testmod(module)
    assert done.attempted > 0
    assert done.failed == 0  # what went wrong was printed
