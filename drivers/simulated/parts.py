"""Synthetic parts that look like the paper's two products, each with its true class and mask.

A bulb is a diode's glass bulb under dark-field light (section 3.2.3), iron a cylinder with magnetic powder under ultraviolet light (3.2.4).
The same seed gives the same part underneath whatever its class: a defect is all that differs.
"""

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import numpy.typing as npt

from drivers.simulated import bulb, iron
from drivers.simulated.light import Mask, Picture

CLASSES: dict[str, tuple[str, ...]] = {
    "bulb": ("good", "break", "shell_wall_damage", "stain"),
    "iron": ("good", "crack"),
}
"""The classes of each product; the first is good."""
_RENDER = {"bulb": bulb.render, "iron": iron.render}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part. `picture` is uint8 (height, width, 3) RGB; `mask` is True on the defect, nowhere for a good part. Both are read-only."""

    product: str
    class_name: str
    picture: Picture
    mask: Mask


def make_part(product: str, class_name: str, seed: int) -> Part:
    """The part that these three say, always the same.

    Raises:
        ValueError: there is no such product or class; the message lists those there are.
    """
    if product not in CLASSES:
        raise ValueError(f"product {product!r}: there are {', '.join(CLASSES)}")
    if class_name not in CLASSES[product]:
        raise ValueError(f"class {class_name!r} of product {product}: there are {', '.join(CLASSES[product])}")
    scene = np.random.default_rng(np.random.SeedSequence([crc32(product.encode()), seed]))
    defect = np.random.default_rng(np.random.SeedSequence([crc32(product.encode()), seed, crc32(class_name.encode())]))
    picture, mask = _RENDER[product](class_name, scene, defect)
    mask.setflags(write=False)
    return Part(product, class_name, picture, mask)


def write_folder(directory: Path, product: str, count: int, seed: int) -> None:
    """Writes `count` parts of each class as `images/CLASS/NNNN.png` and their masks (0 and 255) as `masks/CLASS/NNNN.png`.

    Part `n` of every class is the same part underneath: seed + n.

    Raises:
        ValueError: there is no such product, or the folder is not empty.
    """
    if product not in CLASSES:
        raise ValueError(f"product {product!r}: there are {', '.join(CLASSES)}")
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory}: is not empty; name a new folder")
    for class_name in CLASSES[product]:
        for kind in ("images", "masks"):
            (directory / kind / class_name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            part = make_part(product, class_name, seed + number)
            name = f"{number:04d}.png"
            _write(directory / "images" / class_name / name, np.ascontiguousarray(part.picture[..., ::-1]))
            _write(directory / "masks" / class_name / name, part.mask.astype(np.uint8) * 255)


def _write(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    done, encoded = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"{path}: cannot be written as PNG")
    path.write_bytes(encoded.tobytes())
