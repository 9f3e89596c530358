"""Videos of datasets as images: folders of frames as they are, or files whose frames are decoded with PyAV.

Which frames stand for a video is CoVR's rule (`src/data/embs.py`, Ventura et al., arXiv 2308.14746). Frames of a file
are RGB, as for CoVR's queries; its keys have red and blue exchanged.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from anykey.benchmark.dataset import Image
from anykey.benchmark.errors import DatasetError

if TYPE_CHECKING:
    import av

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
NUM_FRAMES = 15  # that stand for a video


def find_video(folders: Iterable[Path], name: str) -> Path | None:
    """Where a video is: a folder of frames of its name, or else a file `NAME.mp4`; None where there is neither.

    Args:
        folders: Where to look, in this order.
        name: Its name, such as "03/1401685514".
    """
    places = list(folders)
    for folder in places:
        if (folder / name).is_dir() and frame_files(folder / name):
            return folder / name
    return next((path for folder in places if (path := folder / f"{name}.mp4").is_file()), None)


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES)


def middle_frame(video: Path) -> Image:
    """The frame in the middle, `n // 2` from 0; of a file it is decoded when it is called for.

    Raises:
        DatasetError: the video is a file and PyAV is not installed.
    """
    if video.is_dir():
        frames = frame_files(video)
        return frames[len(frames) // 2]
    require_av(video)
    return partial(_one, video, lambda num: num // 2)


def sampled_frames(video: Path) -> tuple[Image, ...]:
    """The frames in the middle of 15 stretches of equal length; of a shorter video all.

    Returns:
        Files of a folder; of a video file lossless PNG.

    Raises:
        DatasetError: the video cannot be decoded.
    """
    if video.is_dir():
        frames = frame_files(video)
        return tuple(frames[place] for place in sample_places(len(frames)))
    return tuple(decoded(video, sample_places))


def sample_places(num: int, wanted: int = NUM_FRAMES) -> list[int]:
    """Which frames stand for a video of `num`.

    >>> sample_places(4), sample_places(20)[:5]
    ([0, 1, 2, 3], [0, 1, 2, 4, 5])
    """
    wanted = min(num, wanted)
    ends = [num * number // wanted for number in range(wanted + 1)]
    return [(ends[number] + ends[number + 1] - 1) // 2 for number in range(wanted)]


def decoded(path: Path, choose: Callable[[int], Sequence[int]]) -> list[bytes]:
    """Some frames of a video file as PNG, which loses nothing.

    Args:
        path: The file.
        choose: The number of frames to the places that are wanted, from 0 and rising.

    Raises:
        DatasetError: PyAV is not installed, or the file has no such frames.
    """
    require_av(path)
    import av

    try:
        places = choose(_count(path))
        wanted, found = set(places), list[bytes]()
        with av.open(str(path)) as container:
            for place, frame in enumerate(container.decode(video=0)):
                if place in wanted:
                    found.append(_png(frame))
                if place >= places[-1]:
                    break
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DatasetError(f"video {path} cannot be decoded: {error}") from error
    if len(found) < len(places):
        raise DatasetError(f"video {path} cannot be decoded to its end: {len(found)} of {len(places)} frames")
    return found


def require_av(path: Path) -> None:
    """Makes sure that video files can be decoded.

    Raises:
        DatasetError: they cannot.
    """
    if find_spec("av") is None:
        raise DatasetError(
            f"decoding {path} needs PyAV: pip install 'anykey[video]', or extract its frames to a folder"
        )


def _count(path: Path) -> int:
    """How many frames a file has, by its packets: what a header says may be wrong.

    Raises:
        IndexError: none.
    """
    import av

    with av.open(str(path)) as container:
        num: int = sum(packet.size > 0 for packet in container.demux(video=0))
    if not num:
        raise IndexError("it has no frames")
    return num


def _one(path: Path, choose: Callable[[int], int]) -> bytes:
    return decoded(path, lambda num: [choose(num)])[0]


def _png(frame: "av.VideoFrame") -> bytes:
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(frame.to_ndarray(format="rgb24")).save(buffer, format="PNG")
    return buffer.getvalue()
