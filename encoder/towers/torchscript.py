"""The tensors of a TorchScript archive, such as OpenAI publishes, without running the program that it is.

`torch.jit.load` would run it. Here only the list of its objects is read: the modules as plain holders of names, and
tensors from their bytes.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CLASS = re.compile(r"^class (\w+)\(Module\):\n((?:[ \t].*\n|\n)*)", re.MULTILINE)
_STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


@dataclass(frozen=True)
class Archive:
    """What is read of an archive.

    Attributes:
        weights: Its parameters and buffers, by name.
        classes: Names of the classes of its modules, such as `QuickGELU`.
    """

    weights: dict[str, Tensor]
    classes: frozenset[str]


def is_torchscript(path: Path) -> bool:
    """Whether the file is such an archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> Archive:
    """Reads the parameters and buffers.

    Raises:
        pickle.UnpicklingError: it holds other objects than modules and tensors.
        OSError, ValueError, LookupError, zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).partition("/")[0]
        kept = _kept_names(archive, root)
        module = _Reader(archive, root).load()
    weights = dict(_tensors(module, "", kept))
    classes = frozenset(re.sub(r"^.*\.", "", name) for name in _module_names(module))
    return Archive(weights, classes)


class _Module:
    """Stands for a module of any class: its qualified name, and what it holds."""

    qualified_name = ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.held = state


class _Reader(pickle.Unpickler):
    """Reads the list of objects; of code it knows what rebuilds a tensor and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive = archive
        self._root = root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A holder for a module of the archive, or what rebuilds a tensor."""
        if module.startswith("__torch__"):
            return type(name, (_Module,), {"qualified_name": f"{module}.{name}"})
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known = {"torch._utils._rebuild_tensor_v2": _rebuilt, "collections.OrderedDict": OrderedDict}
        if f"{module}.{name}" in known:
            return known[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """All numbers of the storage that a tensor is a view of."""
        _, dtype, key, _, _ = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _rebuilt(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _kept_names(archive: zipfile.ZipFile, root: str) -> dict[str, set[str]]:
    """The parameters and buffers of each class, by its qualified name; other tensors are no weights."""
    kept = {}
    for name in archive.namelist():
        if name.startswith(f"{root}/code/") and name.endswith(".py"):
            module = name.removeprefix(f"{root}/code/").removesuffix(".py").replace("/", ".")
            for found in _CLASS.finditer(archive.read(name).decode()):
                lists = re.findall(r"__(?:parameters|buffers)__ = \[(.*)\]", found[2])
                kept[f"{module}.{found[1]}"] = set(re.findall(r'"([^"]+)"', " ".join(lists)))
    return kept


def _tensors(module: _Module, prefix: str, kept: dict[str, set[str]]) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.held.items():
        if isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.", kept)
        elif isinstance(value, Tensor) and name in kept.get(module.qualified_name, ()):
            yield f"{prefix}{name}", value


def _module_names(module: _Module) -> Iterator[str]:
    yield module.qualified_name
    for value in module.held.values():
        if isinstance(value, _Module):
            yield from _module_names(value)
