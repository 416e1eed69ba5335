"""Labelled pictures: a folder a class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


class DatasetError(Exception):
    """The pictures cannot be trained or judged with; the message names the folder or file and the fix."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture file and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """All pictures of a labelled folder.

    Attributes:
        classes: names; a sample's label is an index into them.
        samples: in the order of the classes, within a class by file name.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def counts(self) -> dict[str, int]:
        """Pictures of each class."""
        labels = [sample.label for sample in self.samples]
        return {name: labels.count(index) for index, name in enumerate(self.classes)}


def read_folder(data: Path, classes: Sequence[str] | None = None) -> Dataset:
    """The pictures under data/CLASS/, or data/images/CLASS/ where data has a folder `images`.

    Files of other kinds, hidden files and hidden folders are left out.

    Args:
        classes: the classes in their order; by default every folder, sorted by name.

    Raises:
        DatasetError: the folder is missing, holds fewer than two classes or not those asked for, or a class has no picture.
    """
    root = data / "images" if (data / "images").is_dir() else data
    if not root.is_dir():
        raise DatasetError(f"{data}: no such folder; it should hold a folder of pictures a class")
    found = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")))
    names = found if classes is None else tuple(classes)
    if set(names) != set(found):
        raise DatasetError(f"{root}: holds the classes {', '.join(found) or '(none)'}, but {', '.join(names)} were asked for")
    if len(names) < 2:
        raise DatasetError(f"{root}: holds {len(names)} class ({', '.join(names) or 'none'}); at least two are needed, a folder each")
    samples = tuple(Sample(path, label) for label, name in enumerate(names) for path in _pictures(root / name))
    return Dataset(names, samples)


def split(dataset: Dataset, validation: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Training and validation samples: of every class the same share, at least one picture each, chosen by the seed.

    Args:
        validation: the share put aside, above 0 and below 1.

    Raises:
        DatasetError: a class has a single picture.
    """
    rng = np.random.default_rng(seed)
    training: list[Sample] = []
    held_back: list[Sample] = []
    for label, name in enumerate(dataset.classes):
        samples = [sample for sample in dataset.samples if sample.label == label]
        if len(samples) < 2:
            raise DatasetError(f"class {name}: has one picture; at least two are needed, one to train with and one to validate with")
        count = min(max(1, round(len(samples) * validation)), len(samples) - 1)
        order = rng.permutation(len(samples))
        held_back += [samples[index] for index in sorted(order[:count])]
        training += [samples[index] for index in sorted(order[count:])]
    return tuple(training), tuple(held_back)


def _pictures(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    if not paths:
        raise DatasetError(f"{folder}: class {folder.name} has no picture ({', '.join(sorted(SUFFIXES))})")
    return paths
