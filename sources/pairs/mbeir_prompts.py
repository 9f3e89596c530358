"""The texts of M-BEIR's queries and candidates: their normal form, and the instructions before a query.

Wei et al., "UniIR", ECCV 2024, arXiv 2311.17136. The benchmark forms texts alike with code of its own; a test compares
the two.
"""

import csv
from pathlib import Path

from anykey.sources.errors import SourceError

Prompts = dict[tuple[str, str, str], tuple[str, ...]]  # by dataset number, query modality, candidate modality


def format_string(text: str | None) -> str:
    """M-BEIR's normal form of a text: trimmed, unquoted, with a capital first letter and an end mark.

    >>> format_string('  "two dogs" ')
    'Two dogs.'
    >>> format_string(None)
    ''
    """
    text = (text or "").replace("\r", "").strip().strip('"')
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def instructed(prompts: tuple[str, ...], text: str | None) -> tuple[str, ...]:
    """A query's text behind each of its prompts; an image without a text gets the prompt alone, and is fused by it.

    >>> instructed(("Find the photo", "Show it to me!"), "two dogs")
    ('Find the photo. two dogs.', 'Show it to me! two dogs.')
    """
    return tuple(format_string(f"{format_string(prompt)} {text or ''}") for prompt in prompts)


def read_prompts(path: Path) -> Prompts:
    """`query_instructions.tsv`: modalities, dataset name, dataset number, then the prompts that are not empty.

    Raises:
        SourceError: it cannot be read, or a row is too short.
    """
    prompts: Prompts = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter="\t")
            next(rows, None)
            for number, row in enumerate(rows, 2):
                found = tuple(prompt for prompt in row[4:] if prompt.strip())
                if row and not found:
                    raise SourceError(f"{path}:{number}: expected 5 to 8 columns, got {len(row)}")
                if row:
                    prompts[row[3], row[0], row[1]] = found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"cannot read {path}: {error}") from error
    return prompts
