"""Whether there is room to load another release or index beside what is loaded, before it is tried.

What does not fit would end the process by the system's hand, and with it what answers.
"""

from pathlib import Path

from anykey.encoder.description import weights_bytes_of
from anykey.index.errors import InvalidStructureError
from anykey.index.milvus.address import parse_address
from anykey.program.memory import room_left
from anykey.service.errors import StartupError
from anykey.service.settings import ServiceSettings

MIB = 2**20
LOADED = 2  # times the weights: so much more is in memory at most while they are read, and a library may get its own


class NoRoomError(StartupError):
    """It would not fit beside what is loaded.

    Attributes:
        need_bytes: What it would take, about.
        free_bytes: What is free.
    """

    def __init__(self, message: str, need_bytes: int, free_bytes: int) -> None:
        super().__init__(message)
        self.need_bytes = need_bytes
        self.free_bytes = free_bytes


def need_of(settings: ServiceSettings, *, is_encoder_loaded: bool) -> int:
    """About how many bytes of memory are taken when an index and its encoder are loaded.

    These are the numbers of the weights in float32, twice, which was measured with the towers of a ViT-B/32 (2.0 times
    their 577 MiB, of a second one in a process), and the files of the index that are read and not mapped. Also what
    goes on to a GPU passes through this machine's memory.

    Args:
        settings: The index's.
        is_encoder_loaded: Whether its encoder is loaded already.
    """
    weights = 0 if is_encoder_loaded else weights_bytes_of(settings.checkpoint) or 0
    return LOADED * weights + _index_bytes(settings)


def require_room(settings: ServiceSettings, *, is_encoder_loaded: bool, freed_bytes: int, what: str) -> None:
    """Returns if there is room for an index and its encoder, as far as that can be told.

    Args:
        settings: The index's.
        is_encoder_loaded: Whether its encoder is loaded already.
        freed_bytes: What is given back before it is loaded.
        what: What is to be loaded, for the message.

    Raises:
        NoRoomError: there is not; says how much is missing.
    """
    limit_bytes = None if settings.memory_limit_mib is None else settings.memory_limit_mib * MIB
    room = room_left(limit_bytes)
    need_bytes = need_of(settings, is_encoder_loaded=is_encoder_loaded)
    if room is None or need_bytes <= room.free_bytes + freed_bytes:
        return
    limit = {"setting": "memory_limit_mib", "cgroup": "the container", "machine": "the machine"}[room.limited_by]
    message = (
        f"{what} needs about {_mib(need_bytes)} of memory, and {_mib(room.free_bytes + freed_bytes)} "
        f"{'would be' if freed_bytes else 'are'} free of the {_mib(room.limit_bytes)} of {limit}"
    )
    raise NoRoomError(message, need_bytes, room.free_bytes)


def _index_bytes(settings: ServiceSettings) -> int:
    if parse_address(settings.index) is not None:
        return 0
    from anykey.index.search.version_files import loaded_bytes
    from anykey.index.vectors.structures import gpus_of

    try:
        on_gpus = bool(gpus_of(settings.search_device))
    except InvalidStructureError:  # which whoever opens the index is told
        on_gpus = False
    return loaded_bytes(Path(settings.index), on_gpus=on_gpus)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / MIB:,.0f} MiB"
