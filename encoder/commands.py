"""The commands of `anykey-encoder`."""

import json
import logging
from pathlib import Path
from typing import Any

from anykey.encoder.errors import EncoderError
from anykey.encoder.settings import ConvertSettings, InfoSettings
from anykey.program.settings import Command, UsageError, plain_console, run_program


def convert(settings: ConvertSettings) -> int:
    """Writes a checkpoint and says what it is of, and what to know of it."""
    from anykey.encoder.model import FUSION, SENTENCE_TRANSFORMERS, family_of
    from anykey.encoder.towers.conversion import convert_weights

    if settings.output.exists():
        raise UsageError(f"{settings.output} exists already; name a directory that does not")
    family = family_of(settings.source)
    if family == SENTENCE_TRANSFORMERS:
        raise UsageError(
            f"{settings.source} is a model of sentence-transformers, which every command takes as it is; of a CLIP "
            "model within it, name the folder that has its config.json"
        )
    if family == FUSION:
        return _convert_native(settings)
    done = convert_weights(
        settings.source,
        settings.output,
        architecture=settings.architecture,
        tokenizer=settings.tokenizer,
        average=settings.average,
        fusion=settings.fusion,
    )
    console = plain_console()
    console.print(f"wrote {settings.output}: {done.layout}, {done.name}, width {done.width}")
    for remark in done.remarks:
        console.print(remark)
    console.print(done.fingerprint)
    return 0


def _convert_native(settings: ConvertSettings) -> int:
    """Writes a checkpoint of a directory with VISTA's published weights."""
    from anykey.encoder.native_fusion.visualized import convert_visualized, find_visualized

    source = Path(settings.source)
    weights = find_visualized(source)
    if weights is None:
        raise UsageError(f"{source} is a checkpoint of AnyKey already, which every command takes")
    options = ("architecture", "tokenizer", "average", "fusion")
    if given := [name for name in options if getattr(settings, name)]:
        raise UsageError(f"{source} holds VISTA's weights, which go without --{', --'.join(given)}")
    identity = convert_visualized(weights, source, settings.output)
    console = plain_console()
    console.print(f"wrote {settings.output}: VISTA, native fusion")
    console.print(identity)
    return 0


def info(settings: InfoSettings) -> int:
    """Shows what an encoder is."""
    from anykey.encoder.model import Encoder

    encoder = Encoder.load(
        settings.source, device=settings.device, precision=settings.precision, backend=settings.backend
    )
    facts: dict[str, Any] = {
        "family": encoder.family,
        "name": encoder.name,
        "width": encoder.width,
        "context": encoder.context_length,
        "modalities": sorted(encoder.modalities),
        "fusion": encoder.fusion,
        **encoder.details(),
        "provenance": encoder.provenance,
        "computes": f"{encoder.precision} by {encoder.backend} on {encoder.device}",
        **({"why": encoder.why} if encoder.why else {}),
        "fingerprint": encoder.fingerprint,
    }
    console = plain_console()
    if settings.as_json:
        console.print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        console.print(f"{name.replace('_', ' '):<16}{_shown(value)}")
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


COMMANDS = {"convert": Command(ConvertSettings, convert), "info": Command(InfoSettings, info)}


def run(argv: list[str] | None) -> int:
    """Runs what `argv` says, `sys.argv[1:]` when absent; gives the exit code back."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("anykey.encoder.backend_choice").setLevel(logging.INFO)  # takes seconds
    return run_program("anykey-encoder", COMMANDS, argv, (), (EncoderError, OSError))
