"""How far one row of a corpus goes on its way into an index: through how many files and functions."""

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.factories import build_with
from tests.guards.checkout import ROOT

FEW_ROWS, MORE_ROWS = 150, 400
EACH = 0.2  # of the rows; what is done once for many of them, such as a batch, is not counted
MOST_FILES, MOST_RETURNS = 11, 24.1  # of `sources/` and `index/`; one file and three returns are for a row's words


def returns_of(num_rows: int, folder: Path) -> Counter[CodeType]:
    """Returns of every function in a first build of rows with a text each, in all of its threads."""
    corpus, found = folder / f"{num_rows}.jsonl", Counter[CodeType]()
    rows = (json.dumps({"key": f"key-{number:04}", "text": f"some text {number:04}"}) for number in range(num_rows))
    corpus.write_text("\n".join(rows))

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "return":
            found[frame.f_code] += 1

    before = sys.getprofile()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        build_with(corpus, folder / f"index-{num_rows}", structure="exact")
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return found


def test_a_row_goes_through_few_files_and_functions(tmp_path: Path) -> None:
    few, more = returns_of(FEW_ROWS, tmp_path), returns_of(MORE_ROWS, tmp_path)
    of_files: Counter[Path] = Counter()
    functions = []
    for code, number in more.items():
        path = Path(code.co_filename).resolve()
        of_a_row = (number - few[code]) / (MORE_ROWS - FEW_ROWS)
        if of_a_row >= EACH and any(path.is_relative_to(ROOT / name) for name in ("sources", "index")):
            of_files[path] += of_a_row
            functions.append(f"{of_a_row:5.2f} {path.relative_to(ROOT)}: {code.co_qualname}")
    said = "\n".join(sorted(functions))
    assert len(of_files) <= MOST_FILES, said
    assert sum(of_files.values()) <= MOST_RETURNS, said
    assert sum(of_files.values()) > MOST_FILES, said  # or it does not count
