"""The recipe in docs/corpus.md works as it is written."""

import re
from pathlib import Path
from typing import Any

from anykey.sources.corpus.entry import CorpusEntry, CorpusFile, ReadOptions
from anykey.sources.corpus.formats import Format
from anykey.sources.kinds import Kind

PAGE = (Path(__file__).parents[4] / "docs" / "corpus.md").read_text()


def test_recipe_for_a_new_format_works(tmp_path: Path) -> None:
    module, line = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"Format": Format, "Kind": Kind}
    exec(module, names)
    made = eval(line, names)
    (tmp_path / "a.chat").write_text("ann: hello\nbob:  \n")

    good, bad = made.read(CorpusFile(str(tmp_path / "a.chat")), ReadOptions())

    assert made.kind.suffixes == (".chat",)
    assert good == CorpusEntry("1", "hello\n", (), f"{tmp_path}/a.chat:1", {"name": "ann"})
    assert str(bad) == f"{tmp_path}/a.chat:2: neither text nor image: expected 'text', 'image', or both"
