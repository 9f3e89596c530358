"""How an encoder's networks are computed: by which library, and in which numbers.

What a family hands over are networks that take and give tensors; here they become functions that do the same faster.
Weights are converted once, when the encoder is loaded. (Casting them in every pass, as autocast does, is slower than
float32 on a CPU.)

Shape legend: B = batch.
"""

import functools
import importlib.util
import logging
import math
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anykey.encoder.errors import DeviceUnavailableError
from anykey.encoder.exports import SUMS_NAME, Exports

AUTO = "auto"
BACKENDS = ("torch", "compile", "onnx", "openvino")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ON_CPU = {
    "torch": ("fp32", "bf16", "int8"),
    "compile": ("fp32", "bf16"),
    "openvino": ("bf16", "fp32"),
    "onnx": ("int8", "fp32"),
}
_ON_GPU = {"torch": ("fp32", "bf16", "fp16"), "compile": ("fp32", "bf16", "fp16")}
LEAST_PART_ROWS, MOST_PART_ROWS = 2, 8  # of a part that one core computes: fewer or more take longer each
FIXED_SIZES = (1, 8, 32, 64)  # rows of the batches that kernels of a GPU are compiled for
ONNX_NAME = "network.onnx"
_LIBRARIES = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "openvino": ("openvino",)}

# What libraries raise where a network is none that they know.
UNFIT = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ImportError)

Compute = Callable[[Sequence[Any]], Any]  # arrays to an array
Run = Callable[..., Tensor]  # tensors on the encoder's device, or mappings of them, to one tensor there, float32


class Way(NamedTuple):
    """A way to compute: by which library, and in which numbers."""

    backend: str
    precision: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.precision} by {self.backend}"


PLAIN = Way("torch", "fp32")


@dataclass(frozen=True)
class Example:
    """Inputs of a network, from which a library learns what it is to expect.

    Attributes:
        inputs: Two rows of each input.
        free_axes: The axes of each input, beside the first one, whose length differs from batch to batch.
    """

    inputs: tuple[Tensor, ...]
    free_axes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class LibraryRun:
    """A network that another library than torch computes, with weights of its own.

    Attributes:
        compute: Arrays to an array.
        weights_bytes: Bytes of the weights as the library was given them; it may keep them in another form.
        at_once: From how many threads it is best called at the same time.
    """

    compute: Compute
    weights_bytes: int
    at_once: int = 1

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Computes."""
        return torch.from_numpy(np.array(self.compute([each.numpy() for each in inputs]), dtype=np.float32))


def weights_bytes(networks: nn.Module, runs: Mapping[str, Run]) -> int:
    """Bytes of the weights of networks, those that several share once, and of what computes them in their place."""
    tensors = [tensor for module in networks.modules() for tensor in _tensors_of(module) if not tensor.is_meta]
    by_place = {tensor.untyped_storage().data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}
    return sum(by_place.values()) + sum(run.weights_bytes for run in runs.values() if isinstance(run, LibraryRun))


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """The tensors of a module itself; of a matrix that torch keeps in 8 bits, what it was packed from."""
    from torch.ao.nn.quantized.modules.linear import LinearPackedParams  # which takes long, and only sizes need

    yield from (each for each in (*module._parameters.values(), *module._buffers.values()) if each is not None)
    if isinstance(module, LinearPackedParams):
        yield from (each for each in module._weight_bias() if each is not None)


def ways(device: torch.device, backend: str = AUTO, precision: str = AUTO) -> list[Way]:
    """The ways that this machine has and that a pair of settings allows, the plain one first where it is among them.

    Args:
        device: Where the encoder computes.
        backend: One of `BACKENDS`, or `auto` for any that is installed and begins in seconds.
        precision: One of `PRECISIONS`, or `auto` for any.

    Raises:
        DeviceUnavailableError: there is no such way here; says which there are.
    """
    known = _ON_CPU if device.type == "cpu" else _ON_GPU
    if backend not in (AUTO, *BACKENDS):
        raise DeviceUnavailableError(f"unknown backend '{backend}', expected auto, {', '.join(BACKENDS)}")
    if precision not in (AUTO, *PRECISIONS):
        raise DeviceUnavailableError(f"unknown precision '{precision}', expected auto, {', '.join(PRECISIONS)}")
    if backend == AUTO:
        backends = [name for name in known if name != "compile" and not _missing(name)]
    else:
        _require(backend, known, device)
        backends = [backend]
    found = [Way(name, one) for name in backends for one in known[name] if precision in (AUTO, one)]
    if not found:
        there = {one for name in backends for one in known[name]}
        raise DeviceUnavailableError(
            f"precision {precision} cannot be had on {device}{'' if backend == AUTO else f' by {backend}'}: "
            f"expected one of {', '.join(one for one in PRECISIONS if one in there)}"
        )
    return found


def usual(device: torch.device, backend: str, precision: str, half: str = "fp16") -> Way:
    """The way of a backend that is named: half precision on a GPU and float32 elsewhere, if it is not said.

    Args:
        device: Where the encoder computes.
        backend: One of `BACKENDS`.
        precision: One of `PRECISIONS`, or `auto`.
        half: What half precision is for this encoder.

    Raises:
        DeviceUnavailableError: there is no such way here; says which there are.
    """
    if precision == AUTO:
        precision = half if device.type == "cuda" else "fp32"
    return ways(device, backend, precision)[0]


def convert(networks: nn.ModuleDict, examples: Mapping[str, Example], way: Way, exports: Exports) -> dict[str, Run]:
    """The networks as functions that compute this way.

    Args:
        networks: On their device, in float32, for inference; they may share weights. Their weights are converted in
            place where that can be done, so they are of no use afterwards.
        examples: What each takes.
        way: How they are to compute; one of `ways`.
        exports: Where files are kept that a library needs of them.

    Raises:
        DeviceUnavailableError: the library cannot make such networks, or there is no room for its files; says why.
    """
    require_examples(networks, examples, way)
    try:
        if way.backend == "onnx":
            return _by_onnx(networks, examples, way.precision, exports)
        return _CONVERTERS[way.backend](networks, examples, way.precision)
    except (OSError, *UNFIT) as error:
        raise unfit(way, error) from error


def unfit(way: Way, error: Exception) -> DeviceUnavailableError:
    """What is raised in the place of a library's own error: that a network cannot be computed so, and why in a line."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return DeviceUnavailableError(f"this network cannot be computed in {way}: {reason}")


def require_examples(networks: nn.ModuleDict, examples: Mapping[str, Example], way: Way) -> None:
    """Makes sure that a library which learns of a network by an example has one of each.

    Raises:
        DeviceUnavailableError: it has not.
    """
    if way.backend in _LIBRARIES and set(examples) != set(networks):
        raise DeviceUnavailableError(f"networks of this family are computed by torch, not by {way.backend}")


def _require(backend: str, known: Mapping[str, Sequence[str]], device: torch.device) -> None:
    if backend not in known:
        raise DeviceUnavailableError(f"backend {backend} computes on the CPU only, not on {device}")
    missing = _missing(backend)
    if missing:
        raise DeviceUnavailableError(
            f"backend {backend} needs {', '.join(missing)}, not installed here: pip install 'anykey[{backend}]'"
        )


def _missing(backend: str) -> list[str]:
    return [name for name in _LIBRARIES.get(backend, ()) if importlib.util.find_spec(name) is None]


def _by_torch(networks: nn.ModuleDict, examples: Mapping[str, Example], precision: str) -> dict[str, Run]:
    if precision == "int8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that this moves to another package
            quantize: Any = torch.ao.quantization.quantize_dynamic
            quantize(networks, {nn.Linear}, dtype=torch.qint8, inplace=True)
        for module in networks.modules():  # open_clip looks here for what features are cast to
            if not hasattr(module, "int8_original_dtype"):
                setattr(module, "int8_original_dtype", torch.float32)  # noqa: B010 - no parameter of it
        return {name: _run(network, torch.float32) for name, network in networks.items()}
    networks.to(_DTYPES[precision])
    return {name: _run(network, _DTYPES[precision]) for name, network in networks.items()}


def _by_compile(networks: nn.ModuleDict, examples: Mapping[str, Example], precision: str) -> dict[str, Run]:
    networks.to(_DTYPES[precision])
    has_fixed = has_fixed_batches(Way("compile", precision), next(networks.parameters()).device)
    made: dict[str, Run] = {}
    for name, network in networks.items():
        is_fixed = has_fixed and name in examples
        compiled: Any = torch.compile(network, dynamic=not is_fixed)
        run = _run(compiled, _DTYPES[precision])
        made[name] = in_fixed_batches(run) if is_fixed else run
    return made


def has_fixed_batches(way: Way, device: torch.device) -> bool:
    """Whether networks of which there are examples are given batches of `FIXED_SIZES` and texts of one length only.

    A GPU has most to gain from kernels that are made for one shape; a CPU has more to lose by rows that nobody wants.
    """
    return way.backend == "compile" and device.type == "cuda"


def in_fixed_batches(run: Run) -> Run:
    """A network that is given batches of `FIXED_SIZES` rows alone; the last row stands in the place of those missing.

    Args:
        run: Takes tensors with a row for each item, and gives one.
    """

    def run_in_parts(*inputs: Tensor) -> Tensor:
        parts = zip(*(torch.split(each, FIXED_SIZES[-1]) for each in inputs), strict=True)
        return torch.cat([_run_filled(run, part) for part in parts])

    return run_in_parts


def _run_filled(run: Run, inputs: Sequence[Tensor]) -> Tensor:
    num_rows = len(inputs[0])
    size = next(size for size in FIXED_SIZES if size >= num_rows)
    if size == num_rows:
        return run(*inputs)
    rows = torch.arange(size, device=inputs[0].device).clamp(max=num_rows - 1)
    return run(*(each[rows] for each in inputs))[:num_rows]


def _run(network: nn.Module, dtype: torch.dtype) -> Run:
    def run(*inputs: Any) -> Tensor:
        output: Tensor = network(*(_in(dtype, each) for each in inputs))
        return output.float()

    return run


def _in(dtype: torch.dtype, given: Any) -> Any:
    """What a network is given, with its floating-point numbers in this format."""
    if isinstance(given, Mapping):
        return {name: _in(dtype, value) for name, value in given.items()}
    return given.to(dtype) if isinstance(given, Tensor) and given.is_floating_point() else given


def _by_openvino(networks: nn.ModuleDict, examples: Mapping[str, Example], precision: str) -> dict[str, Run]:
    # What is there of it tells OpenVINO's makers of each import, by a process that it forks off this one, with all its
    # sockets. Where it cannot be imported, OpenVINO tells nobody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    core = openvino.Core()
    made: dict[str, Run] = {}
    for name, network in networks.items():
        with _fit_to_export():
            # Not by a trace: torch keeps the graph of each to the end of the process, 37 MB of a tower of ViT-B/32.
            program = torch.export.export(network, examples[name].inputs, dynamic_shapes=_shapes(examples[name]))
            program._guards_code = []  # checks of shapes, which OpenVINO cannot compute
            model = openvino.convert_model(program)
        constants = (each for each in model.get_ordered_ops() if each.get_type_name() == "Constant")
        num_bytes = sum(each.get_element_type().size * math.prod(each.get_output_shape(0)) for each in constants)
        made[name] = LibraryRun(_openvino_run(core.compile_model(model, "CPU", options)), num_bytes)
    return made


def _openvino_run(compiled: Any) -> Compute:
    return lambda arrays: compiled(list(arrays))[0]


def _by_onnx(
    networks: nn.ModuleDict, examples: Mapping[str, Example], precision: str, exports: Exports
) -> dict[str, Run]:
    # Set before its import, or ONNX Runtime tells its makers of this process and of each network.
    os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"
    num_cores = torch.get_num_threads()
    is_by_cores = precision == "int8" and num_cores > 1  # twice, its weights are fewer bytes than float32's
    cores = Cores(num_cores)
    made: dict[str, Run] = {}
    for name, network in networks.items():
        write = functools.partial(_write_onnx, network, examples[name], precision)
        with exports.files(name, f"{precision} by onnx", write) as folder:
            num_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.name != SUMS_NAME)
            by_all = _onnx_run(folder / ONNX_NAME, num_cores)
            if is_by_cores:
                by_one = _onnx_run(folder / ONNX_NAME, 1)
                made[name] = LibraryRun(functools.partial(cores.compute, by_all, by_one), 2 * num_bytes, num_cores)
            else:
                made[name] = LibraryRun(by_all, num_bytes)
    return made


def _write_onnx(network: nn.Module, example: Example, precision: str, folder: Path) -> None:
    """Writes a network into a folder."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _fit_to_export():
        program: Any = torch.onnx.export(
            network, example.inputs, dynamic_shapes=_shapes(example), dynamo=True, verbose=False
        )
        if precision != "int8":
            program.save(str(folder / ONNX_NAME))
            return
        with tempfile.TemporaryDirectory(dir=folder) as plain:
            program.save(str(Path(plain) / ONNX_NAME))
            quantize_dynamic(
                Path(plain) / ONNX_NAME,
                folder / ONNX_NAME,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm"],
            )


def _onnx_run(path: Path, num_threads: int) -> Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


class Cores:
    """Computes a batch by all cores together, or in parts, each by one core; batches at the same time share the cores.

    Cores that share every operation answer a lone item soonest, but wait for each other after each operation, most of
    all where something else needs one of them. Those that have a part each wait once, at the end of the batch. Any
    number of threads may use it at the same time.
    """

    def __init__(self, num_cores: int) -> None:
        """Starts no thread yet.

        Args:
            num_cores: How many there are.
        """
        self._num_cores = num_cores
        self._threads = ThreadPoolExecutor(num_cores, thread_name_prefix="parts")
        self._num_under_way = 0
        self._lock = threading.Lock()

    def compute(self, by_all: Compute, by_one: Compute, arrays: Sequence[Any]) -> Any:
        """What both of two functions compute of a batch, the one by all cores and the other by the calling thread."""
        with self._lock:
            self._num_under_way += 1
            num_batches = self._num_under_way
        try:
            num_rows = len(arrays[0])
            if num_batches == 1 and num_rows < LEAST_PART_ROWS * self._num_cores:
                return by_all(arrays)
            num_cores = min(math.ceil(self._num_cores / num_batches), num_rows // LEAST_PART_ROWS)
            return by_one(arrays) if num_cores <= 1 else self._in_parts(by_one, arrays, num_cores)
        finally:
            with self._lock:
                self._num_under_way -= 1

    def _in_parts(self, by_one: Compute, arrays: Sequence[Any], num_cores: int) -> Any:
        num_parts = num_cores * math.ceil(len(arrays[0]) / (num_cores * MOST_PART_ROWS))
        parts = zip(*(np.array_split(each, num_parts) for each in arrays), strict=True)
        return np.concatenate(list(self._threads.map(by_one, parts)))


def _shapes(example: Example) -> tuple[dict[int, Any], ...]:
    """What torch's export is told of the inputs: which axes are free."""
    free = torch.export.Dim.DYNAMIC
    return tuple({0: free, **dict.fromkeys(axes, free)} for axes in example.free_axes)


@contextmanager
def _fit_to_export() -> Iterator[None]:
    """Attention as plain operations, without the kernel that torch has for inference alone, and without remarks."""
    was_fast = torch.backends.mha.get_fastpath_enabled()
    was_disabled = logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(was_disabled)
        torch.backends.mha.set_fastpath_enabled(was_fast)


_CONVERTERS = {"torch": _by_torch, "compile": _by_compile, "openvino": _by_openvino}
