"""The directory that sentence-transformers saves a model in: what it says of itself, and what of it is refused.

modules.json                       the modules that an item goes through: the class and the folder of each
config_sentence_transformers.json  what kind of model it is, and its prompts
config.json, tokenizer.json, ...   as transformers has them
model.safetensors, ...             the weights

Nothing in it is run, and it is read as it is; there is no format of ours for such models.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anykey.encoder.checkpoint import read_json, read_object
from anykey.encoder.errors import CheckpointCorruptError
from anykey.encoder.model import MODULES_NAME
from anykey.encoder.towers.layouts.strangers import what_file_is

SETTINGS_NAME = "config_sentence_transformers.json"
CONFIG_NAME = "config.json"
EMBEDS = "SentenceTransformer"  # the kind of model that gives one vector of an item
_OF_THE_LIBRARY = "sentence_transformers."  # how the names of its own classes begin
_ADAPTER_NAME = "adapter_config.json"
_WIDTHS = ("matryoshka_dims", "matryoshka_dimensions")  # under which models declare the widths they can be cut to
# What a vector can depend on. Programs for other libraries lie in folders that none of this reads.
_READ = {".json", ".jinja", ".txt", ".model", ".safetensors", ".bin"}
_NOT_READ = ("onnx", "openvino")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Directory:
    """A model as its directory describes it.

    Attributes:
        path: The directory.
        name: The model's, which is the directory's.
        modules: The names of the classes that an item goes through.
        widths: Those that it says it can be cut to; empty if it says nothing.
        number_format: What its weights are in, as torch names it; empty if it does not say.
        made_by: Versions of the libraries that saved it.
    """

    path: Path
    name: str
    modules: tuple[str, ...]
    widths: tuple[int, ...]
    number_format: str
    made_by: dict[str, str]

    def fingerprint(self, facts: dict[str, Any]) -> str:
        """`sha256:` and the digest of all files that a vector can depend on, and of facts, which must be JSON."""
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for path in _files(self.path):
            digest.update(f"{path.relative_to(self.path).as_posix()} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        return f"sha256:{digest.hexdigest()}"


def read_directory(path: Path) -> Directory:
    """Reads what a directory says of its model, and refuses what is known to be of no use.

    Args:
        path: A directory with `modules.json`.

    Raises:
        CheckpointCorruptError: it is damaged, has no weights, is no model that embeds, is an adapter of another model,
            or has code of its own; says which.
    """
    modules = _modules(path)
    settings = read_object(path / SETTINGS_NAME) if (path / SETTINGS_NAME).is_file() else {}
    kind = settings.get("model_type", EMBEDS)
    if kind != EMBEDS:
        raise CheckpointCorruptError(
            f"{path} is a {kind} of sentence-transformers, which gives no single vector of an item: expected a {EMBEDS}"
        )
    for name in modules:
        if not name.startswith(_OF_THE_LIBRARY):
            raise CheckpointCorruptError(own_code(path, f"the class {name} of {MODULES_NAME}"))
    _check_weights(path)
    config = read_object(path / CONFIG_NAME) if (path / CONFIG_NAME).is_file() else {}
    declared: list[Any] = next((config[name] for name in _WIDTHS if isinstance(config.get(name), list)), [])
    widths = tuple(sorted(width for width in declared if isinstance(width, int)))
    versions = settings.get("__version__")
    made_by = {str(name): str(value) for name, value in versions.items()} if isinstance(versions, dict) else {}
    formats = (
        part.get(name) for part in (config, config.get("text_config") or {}) for name in ("dtype", "torch_dtype")
    )
    number_format = str(next(filter(None, formats), ""))
    return Directory(path, _name(path), modules, widths, number_format, made_by)


def own_code(path: Path, what: str) -> str:
    """Why a model that brings code of its own is refused.

    Args:
        path: The directory.
        what: What needs the code.
    """
    return (
        f"{path} needs code that lies in the directory itself for {what}, and such code is not run; "
        "docs/encoders.md says how to save such a model without it"
    )


def _name(path: Path) -> str:
    """The directory's own name, or the one that it was fetched by, where Hugging Face's cache calls it by a digest."""
    path = path.resolve()
    if path.parent.name == "snapshots":
        return path.parents[1].name.removeprefix("models--").replace("--", "/")
    return path.name


def _modules(path: Path) -> tuple[str, ...]:
    file = path / MODULES_NAME
    content = read_json(file)
    if not isinstance(content, list) or not content or not all(isinstance(each, dict) for each in content):
        raise CheckpointCorruptError(f"{file}: expected a list of modules")
    names = tuple(each.get("type") for each in content)
    if not all(isinstance(name, str) for name in names):
        raise CheckpointCorruptError(f"{file}: expected the class of each module under 'type'")
    return tuple(map(str, names))


def _check_weights(path: Path) -> None:
    adapter = next((file for file in _all_files(path) if file.name == _ADAPTER_NAME), None)
    if adapter is not None:
        base = read_object(adapter).get("base_model_name_or_path") or "another model"
        raise CheckpointCorruptError(
            f"{adapter.parent} holds an adapter of {base} and not the whole model: merge it into that one and save it "
            "(merge_and_unload of peft)"
        )
    weights = [file for file in _files(path) if file.suffix in (".safetensors", ".bin")]
    if not weights:
        raise CheckpointCorruptError(f"{path} has no weights: expected model.safetensors in it or in a folder below")
    for file in weights:
        if (stranger := what_file_is(file)) is not None:
            raise CheckpointCorruptError(f"{file} is damaged or no weights file: it is {stranger}")


def _files(path: Path) -> list[Path]:
    """The files that a vector can depend on, in a fixed order; of weights in two formats those that are read."""
    found = [file for file in _all_files(path) if file.suffix in _READ and not _is_text_for_people(file)]
    safe = {file.parent for file in found if file.suffix == ".safetensors"}
    return sorted(file for file in found if file.suffix != ".bin" or file.parent not in safe)


def _all_files(path: Path) -> Iterator[Path]:
    for entry in path.iterdir():
        if entry.name.startswith(".") or entry.name in _NOT_READ:
            continue
        if entry.is_dir():
            yield from _all_files(entry)
        elif entry.is_file():
            yield entry


def _is_text_for_people(file: Path) -> bool:
    """Whether it is a licence or a list of requirements, and no vocabulary."""
    return file.suffix == ".txt" and file.stem.lower().startswith(("license", "licence", "notice", "requirements"))
