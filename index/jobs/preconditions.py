"""What is asked of an index, checked before anything is read or embedded for it."""

from pathlib import Path

from anykey.index.errors import UnusableOptionError
from anykey.index.jobs.corpus import find_files
from anykey.index.jobs.encoding import EncoderSource
from anykey.index.settings import BuildSettings, FoldSettings
from anykey.index.store.manifest import AUTO
from anykey.index.vectors.structure_facts import VectorType
from anykey.index.vectors.structure_kinds import require_possible
from anykey.index.vectors.structures import GpuUse


def check_at_once(settings: BuildSettings, source: EncoderSource) -> tuple[str, GpuUse]:
    """Refuses all of a build that can be refused at once; gives the encoder's fingerprint, and the GPUs for searches.

    Raises:
        SourceError: there is no corpus.
        InvalidStructureError: FAISS cannot build the search structure, or has no such GPUs.
        EncoderError: there is no such encoder, or no such device.
    """
    find_files(settings.corpus)
    source.require_device()
    gpu = GpuUse.of(settings.search_device, settings.search_gpu_memory_mib * 2**20)
    fingerprint = source.fingerprint()
    if settings.structure is not None:
        check_structure(settings, source.width())
    return fingerprint, gpu


def check_structure(settings: FoldSettings, width: int) -> None:
    """Makes sure that the search structure that the settings name can be built over vectors of this width.

    Raises:
        InvalidStructureError: it cannot.
    """
    if settings.structure is not None and settings.structure != AUTO:
        require_possible(settings.structure, width)


def check_vector_type(asked: VectorType | None, kept: str, index_dir: Path) -> None:
    """Makes sure that an index keeps vectors as it is asked to.

    Raises:
        UnusableOptionError: it keeps them in another way, which only a new index can be told.
    """
    if asked not in (None, kept):
        raise UnusableOptionError(f"--vectors {asked}: {index_dir} keeps vectors as {kept}; it is for a new index")
