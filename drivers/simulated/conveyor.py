"""The parts of the simulated line: where their pictures come from, which one lies before the camera, and in which bin each one ended.

Only here is known what a part really is; the PLC sorts by what the station says.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from drivers.simulated.parts import CLASSES, make_part

Image = npt.NDArray[np.uint8]
SUFFIXES = frozenset({".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A part and the truth about it. `image` is (h, w) grey or (h, w, 3) RGB, uint8."""

    image: Image
    class_name: str
    good: bool
    name: str


def synthetic_pictures(product: str, defective: float, seed: int) -> Iterator[Picture]:
    """Parts of `product` without end, each defective with probability `defective`; the same seed gives the same parts.

    Raises:
        ValueError: there is no such product.
    """
    if product not in CLASSES:
        raise ValueError(f"no product {product!r} can be made; there are {', '.join(sorted(CLASSES))}")
    good, *defects = CLASSES[product]
    chance = random.Random(f"{product} {seed}")
    while True:
        class_name = chance.choice(defects) if chance.random() < defective else good
        part_seed = chance.randrange(2**31)
        part = make_part(product, class_name, part_seed)
        yield Picture(part.picture, class_name, class_name == good, f"{product}/{class_name}/{part_seed}")


def folder_pictures(folder: Path, good: Sequence[str], seed: int | None) -> Iterator[Picture]:
    """The pictures of `folder` (a folder a class) over and over: shuffled anew by `seed` each time, or sorted by path when it is None.

    Raises:
        ValueError: the folder holds no class of that kind, or none of `good`, or a file is no picture; the message names it.
    """
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    classes = {path.parent.name for path in paths}
    if missing := set(good) - classes:
        found = ", ".join(sorted(classes)) or "no pictures in class folders"
        raise ValueError(f"{folder}: no class {', '.join(sorted(missing))} to call good; it holds {found}: name the good ones among them")
    chance = random.Random(seed)
    while True:
        if seed is not None:
            chance.shuffle(paths)
        for path in paths:
            yield Picture(_read(path), path.parent.name, path.parent.name in good, f"{path.parent.name}/{path.name}")


def _read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_ANYCOLOR)
    if image is None:
        raise ValueError(f"{path}: cannot be read as a picture")
    return np.ascontiguousarray(image[:, :, ::-1] if image.ndim == 3 else image)


@dataclass
class Truth:
    """How the parts were sorted against what they are. `classes` counts passed and rejected parts of each class."""

    escapes: list[str] = field(default_factory=list)
    overkill: list[str] = field(default_factory=list)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)

    def sort(self, part_id: str, picture: Picture, good: bool) -> None:
        """Counts one part; `good` says in which bin it ended."""
        bins = self.classes.setdefault(picture.class_name, {"passed": 0, "rejected": 0})
        bins["passed" if good else "rejected"] += 1
        if good and not picture.good:
            self.escapes.append(part_id)
        if picture.good and not good:
            self.overkill.append(part_id)


class PictureConveyor:
    """A conveyor that lays pictures before the camera, each batch's from its stream; the next one of each stream is made ahead of time.

    Attributes:
        truth: how the parts were sorted so far.
    """

    def __init__(self, streams: Sequence[Iterator[Picture]], show: Callable[[Image], None]) -> None:
        """`streams`: the pictures of each batch; several may share one. `show` brings a picture before the camera before it returns.

        Raises:
            ValueError: a stream has no first picture; see the stream.
        """
        self.truth = Truth()
        self._streams = streams
        self._show = show
        self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures")
        self._ready = {stream: self._maker.submit(next, stream) for stream in set(streams)}
        self._under_way: dict[str, Picture] = {}
        self._made = 0
        for first in self._ready.values():
            first.result()

    def present(self, batch: int) -> str | None:
        """Shows the next picture of that batch and returns the part's id; None while that picture is being made.

        Raises:
            ValueError: there is no such picture; see the stream.
        """
        stream = self._streams[batch]
        if not self._ready[stream].done():
            return None
        picture = self._ready[stream].result()
        self._ready[stream] = self._maker.submit(next, stream)
        self._show(picture.image)
        self._made += 1
        part_id = f"B{batch + 1:02d}-{self._made:07d}"
        self._under_way[part_id] = picture
        return part_id

    def sort(self, part_id: str, good: bool) -> None:
        """Takes the part away and counts it."""
        self.truth.sort(part_id, self._under_way.pop(part_id), good)

    def close(self) -> None:
        """Stops making pictures."""
        self._maker.shutdown(cancel_futures=True)
