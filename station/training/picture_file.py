"""One picture file of a labelled folder: which picture it holds, and what is odd about it."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from station.vision.preprocess import rgb_from_file

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
SMALLEST_SIDE_PX = 16
_SAME_PROPORTIONS = 1.02  # a crop of a few pixels changes no object's shape
_SIZES_LISTED = 5


@dataclass(frozen=True, slots=True)
class Look:
    """What a file holds.

    Attributes:
        sha256: of the RGB8 pixels and their shape, 64 hex digits: the same picture in another file or format has the same.
        size: (width, height) px.
        deep: more than 8 bits a component.
        alpha: with an alpha channel.
        mistake: why it is no picture to work with, the file named; empty for one that is.
    """

    path: Path
    sha256: str = ""
    size: tuple[int, int] = (0, 0)
    deep: bool = False
    alpha: bool = False
    mistake: str = ""


def is_picture(path: Path) -> bool:
    """By its name; a link that leads nowhere counts, so that somebody hears of it."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def look(path: Path) -> Look:
    """Decodes the file; one that cannot be is a `mistake`, never an exception."""
    try:
        rgb = rgb_from_file(path)
    except ValueError as error:
        return Look(path, mistake=str(error))
    except cv2.error as error:
        return Look(path, mistake=f"{path}: cannot be decoded: {error.err}")
    height, width = rgb.shape[:2]
    if min(width, height) < SMALLEST_SIDE_PX:
        return Look(path, mistake=f"{path}: is {width} x {height} px; a side needs at least {SMALLEST_SIDE_PX} px")
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(rgb.data)
    return Look(path, digest.hexdigest(), (width, height), *_deep_and_alpha(path))


def oddities(looks: Sequence[Look]) -> Iterator[str]:
    """What somebody should look at, one line each: depth, alpha channel, different proportions."""
    if deep := [look.path for look in looks if look.deep]:
        yield f"{pictures(len(deep))} of 16 bits, e.g. {deep[0]}: scaled to 8 bits, 65535 becomes 255"
    if alpha := [look.path for look in looks if look.alpha]:
        yield f"{pictures(len(alpha))} with an alpha channel, e.g. {alpha[0]}: it is ignored"
    sizes = Counter(look.size for look in looks)
    ratios = [width / height for width, height in sizes]
    if max(ratios) > _SAME_PROPORTIONS * min(ratios):
        listed = ", ".join(f"{width} x {height} ({count})" for (width, height), count in sizes.most_common(_SIZES_LISTED))
        more = f" and {len(sizes) - _SIZES_LISTED} other sizes" if len(sizes) > _SIZES_LISTED else ""
        yield f"pictures of different proportions: {listed}{more} px: each is squeezed into a square, so the shape of objects differs"


def pictures(count: int) -> str:
    """The number in words: `1 picture`, `2 pictures`."""
    return f"{count} picture{'' if count == 1 else 's'}"


def _deep_and_alpha(path: Path) -> tuple[bool, bool]:
    """Of a PNG the header says both (W3C PNG, IHDR: bit depth, then colour type; 4 and 6 have alpha); a TIFF is decoded as it is."""
    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG"):
        return head[24] > 8, head[25] in {4, 6}
    if head.startswith((b"II", b"MM")):
        whole = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        return whole is not None and whole.dtype != np.uint8, whole is not None and whole.ndim == 3 and whole.shape[2] == 4
    return False, False
