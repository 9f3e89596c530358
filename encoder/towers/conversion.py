"""Weights of any known layout to a checkpoint directory."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from anykey.encoder.fusion import Fusion
from anykey.encoder.towers.architecture import read_architecture
from anykey.encoder.towers.checkpoint import Checkpoint, save_checkpoint
from anykey.encoder.towers.encoder import is_checkpoint, load_checkpoint, recognised_checkpoint
from anykey.encoder.towers.layouts.hugging_face import with_tokenizer
from anykey.encoder.towers.layouts.table import recognise

_OPEN_CLIP = "open_clip"


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        layout: What the source was, for people.
        name: The network's name.
        width: D.
        fingerprint: Of the checkpoint.
        remarks: What to know of it, a sentence each.
    """

    layout: str
    name: str
    width: int
    fingerprint: str
    remarks: tuple[str, ...]


def convert_weights(
    source: str,
    output: Path,
    architecture: str | None = None,
    tokenizer: str | None = None,
    average: bool = False,
    fusion: str | None = None,
) -> Conversion:
    """Writes a checkpoint directory of weights.

    Args:
        source: A file, a directory, `ARCHITECTURE@FILE` or `ARCHITECTURE/TAG`.
        output: The directory to write.
        architecture: The network, where the source does not say it, as a checkpoint directory does.
        tokenizer: A folder with the tokenizer, or `clip`, where the source has none.
        average: Take the average over training that a trainer kept, instead of the last weights.
        fusion: How features are added; as the source has it where absent.

    Raises:
        CheckpointError: the source is damaged, no encoder of two towers, or lacks something; says what.
        OSError: the disk is full or not writable.
    """
    path = Path(source)
    remarks: tuple[str, ...] = ()
    is_whole = is_checkpoint(path)
    if path.exists() and not is_whole and path.suffix != ".npz":
        given = None if architecture is None else read_architecture(architecture)
        found = recognise(path, given, tokenizer, average)
        checkpoint, layout, remarks = recognised_checkpoint(path, found), found.layout, found.remarks
    else:
        named = source if architecture is None or is_whole else f"{architecture}@{source}"
        checkpoint, layout = load_checkpoint(named), _OPEN_CLIP
        if tokenizer is not None:
            renamed = with_tokenizer(checkpoint.architecture, None, tokenizer)
            checkpoint = replace(checkpoint, architecture=renamed)
    return _saved(checkpoint, output, layout, remarks, fusion)


def _saved(
    checkpoint: Checkpoint, output: Path, layout: str, remarks: tuple[str, ...], fusion: str | None
) -> Conversion:
    provenance = {**checkpoint.provenance, "layout": layout, "converted_by": f"anykey {version('anykey')}"}
    network = checkpoint.architecture
    chosen = checkpoint.fusion if fusion is None else Fusion(fusion)
    identity = save_checkpoint(output, network, checkpoint.model.state_dict(), chosen, provenance)
    if network.is_extended:
        remarks = (*remarks, "It has parts that open_clip alone cannot build, so that only AnyKey loads it.")
    return Conversion(layout, network.name, network.width, identity, remarks)
