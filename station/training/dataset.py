"""Labelled pictures: a folder a class. What is wrong with them is said before anything is trained.

An error where no honest training or judging is possible; a warning where it is, but somebody should look.
"""

import difflib
import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from station.training.picture_file import SUFFIXES, is_picture, look, oddities, pictures
from station.vision.preprocess import Pixels, rgb_from_file

_FEW = 5  # pictures of a class
_LISTED = 20  # mistakes that are named one by one; of the rest only the number is


class DatasetError(Exception):
    """The pictures cannot be trained or judged with; the message names the folder or the files and the fix."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture file and the index of its class.

    Attributes:
        sha256: of the RGB8 pixels and their shape, 64 hex digits: the same picture in another file or format has the same.
    """

    path: Path
    label: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """All pictures of a labelled folder.

    Attributes:
        classes: names; a sample's label is an index into them.
        samples: in the order of the classes, within a class by file name.
        warnings: what somebody should look at, one line each.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    warnings: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Pictures of each class."""
        count = Counter(sample.label for sample in self.samples)
        return {name: count[label] for label, name in enumerate(self.classes)}

    @property
    def sha256(self) -> str:
        """64 hex digits, equal for the same classes in the same order with the same pictures, whatever the files are called."""
        pictures = sorted((sample.label, sample.sha256) for sample in self.samples)
        return hashlib.sha256(json.dumps([self.classes, pictures]).encode()).hexdigest()

    def positions(self, samples: Sequence[Sample]) -> list[int]:
        """Where these samples stand in `samples`."""
        of_path = {sample.path: position for position, sample in enumerate(self.samples)}
        return [of_path[sample.path] for sample in samples]

    def reordered(self, classes: Sequence[str]) -> "Dataset":
        """The same pictures with the same classes in another order.

        Raises:
            ValueError: `classes` are others.
        """
        if sorted(classes) != sorted(self.classes):
            raise ValueError(f"classes: {', '.join(classes)} are not those of the data: {', '.join(self.classes)}")
        label = [classes.index(name) for name in self.classes]
        samples = sorted((replace(sample, label=label[sample.label]) for sample in self.samples), key=lambda sample: sample.label)
        return replace(self, classes=tuple(classes), samples=tuple(samples))


def read_folder(data: Path, classes: Sequence[str] | None = None) -> Dataset:
    """The pictures under data/CLASS/, or data/images/CLASS/ where data has a folder `images`. Every file was decoded once.

    Files of other kinds, hidden files and hidden folders are left out.

    Args:
        classes: a network's classes in their order, of which the folders may be some; by default every folder is a class, by name.

    Raises:
        DatasetError: the folder is missing, holds fewer than two classes or one that is not among `classes`, or a class has no picture;
            or files, named all at once, cannot be read, are too small, or are the same picture in two classes.
    """
    root = data / "images" if (data / "images").is_dir() else data
    if not root.is_dir():
        raise DatasetError(f"{data}: no such folder; it should hold a folder of pictures a class")
    folders = {entry.name: _entries(entry) for entry in _entries(root) if entry.is_dir()}
    names = tuple(folders) if classes is None else tuple(classes)
    _check_classes(root, tuple(folders), classes)
    files = {name: [path for path in folders.get(name, ()) if is_picture(path)] for name in names}
    suffixes = ", ".join(sorted(SUFFIXES))
    _refuse(f"{root / name}: class {name} has no picture directly in it ({suffixes})" for name in folders if not files[name])
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        looks = list(threads.map(look, itertools.chain.from_iterable(files.values())))
    _refuse(seen.mistake for seen in looks if seen.mistake)
    labels = (label for label, name in enumerate(names) for _ in files[name])
    samples = tuple(Sample(seen.path, label, seen.sha256) for seen, label in zip(looks, labels, strict=True))
    _refuse(_in_two_classes(samples, names))
    warnings = (*_about_places(root, folders), *_about_classes(samples, names, tuple(folders)), *oddities(looks))
    return Dataset(names, samples, (*warnings, *_about_copies(samples)))


def split(dataset: Dataset, validation: float, seed: int) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Training and held-back samples: of every class the same share as nearly as it goes, at least one picture each, chosen by the seed.

    Copies of one picture are on the same side.

    Args:
        validation: the share held back, above 0 and below 1.

    Raises:
        DatasetError: a class has a single picture, or copies of a single one.
    """
    rng = np.random.default_rng(seed)
    held_back: set[Path] = set()
    for label, name in enumerate(dataset.classes):
        groups = _shuffled_groups(dataset, label, rng)
        if len(groups) == 1:
            raise DatasetError(f"class {name}: has one picture; at least two are needed, one to train with and one to hold back")
        count = max(1, round(sum(map(len, groups)) * validation))
        chosen: list[Sample] = []
        for group in groups[:-1]:
            if len(chosen) + len(group) <= count:
                chosen += group
        held_back |= {sample.path for sample in chosen or min(groups, key=len, default=[])}
    return _sides(dataset, held_back)


def folds(dataset: Dataset, count: int, seed: int) -> tuple[tuple[tuple[Sample, ...], tuple[Sample, ...]], ...]:
    """`count` times training and held-back samples: every sample is held back exactly once, every class in every fold.

    Each class is spread as evenly as it goes, by the seed. Copies of one picture are held back together.

    Raises:
        DatasetError: a class has fewer different pictures than there are folds, or `count` is under 2.
    """
    if count < 2:
        raise DatasetError(f"folds: {count} leaves nothing to train with; write 2 or more")
    rng = np.random.default_rng(seed)
    held_back: list[set[Path]] = [set() for _ in range(count)]
    for label, name in enumerate(dataset.classes):
        groups = _shuffled_groups(dataset, label, rng)
        if 0 < len(groups) < count:
            raise DatasetError(f"class {name}: has {len(groups)} different pictures for {count} folds; add pictures, or take fewer folds")
        of_class = [0] * count
        for group in sorted(groups, key=len, reverse=True):
            fold = min(range(count), key=lambda index: (of_class[index], len(held_back[index])))
            of_class[fold] += len(group)
            held_back[fold] |= {sample.path for sample in group}
    return tuple(_sides(dataset, paths) for paths in held_back)


def read_pictures(samples: Iterable[Sample]) -> Iterator[tuple[Pixels, str, int]]:
    """The samples' pixels, PFNC pixel format and label, read one at a time.

    Raises:
        DatasetError: a file is not a readable picture any more; the message names it.
    """
    for sample in samples:
        try:
            yield rgb_from_file(sample.path), "RGB8", sample.label
        except ValueError as error:
            raise DatasetError(str(error)) from None


def _entries(folder: Path) -> list[Path]:
    """What lies in the folder and is not hidden, by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read: {error.strerror}") from None


def _refuse(mistakes: Iterable[str]) -> None:
    if lines := list(mistakes):
        rest = [f"and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
        raise DatasetError("\n".join(lines[:_LISTED] + rest))


def _check_classes(root: Path, found: tuple[str, ...], classes: Sequence[str] | None) -> None:
    listed = ", ".join(found) or "none"
    if classes is None and len(found) < 2:
        raise DatasetError(f"{root}: holds {len(found)} class ({listed}); at least two are needed, a folder each")
    if not found:
        raise DatasetError(f"{root}: holds no folder of a class; there should be some of {', '.join(classes or ())}")
    _refuse(f"{root / name}: a class name needs printable characters; rename the folder" for name in found if not name.isprintable())
    if classes is not None:
        _refuse(f"{root / name}: {name} is no class of the network; {nearest(name, classes)}" for name in found if name not in classes)


def nearest(name: str, names: Sequence[str]) -> str:
    """A question after the spelling that is most like `name`, or all names where none is."""
    near = [known for known in names if alike(name, known)] or difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"


def alike(one: str, other: str) -> bool:
    """Whether two names may be one and a slip: `scratch` and `scratches`, `Good` and `good`, but not `type_1` and `type_2`."""
    one, other = (re.sub(r"[\s_-]+", "", name.casefold()) for name in (one, other))
    if one != other and re.sub(r"\d", "", one) == re.sub(r"\d", "", other):
        return False
    return difflib.SequenceMatcher(None, one, other).ratio() >= 0.85


def _shuffled_groups(dataset: Dataset, label: int, rng: np.random.Generator) -> list[list[Sample]]:
    """The samples of a class, copies of one picture together, in random order."""
    groups: dict[str, list[Sample]] = {}
    for sample in dataset.samples:
        if sample.label == label:
            groups.setdefault(sample.sha256, []).append(sample)
    listed = list(groups.values())
    return [listed[index] for index in rng.permutation(len(listed))]


def _sides(dataset: Dataset, held_back: set[Path]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    training = tuple(sample for sample in dataset.samples if sample.path not in held_back)
    return training, tuple(sample for sample in dataset.samples if sample.path in held_back)


def _in_two_classes(samples: Sequence[Sample], classes: Sequence[str]) -> Iterator[str]:
    first: dict[str, Sample] = {}
    for sample in samples:
        known = first.setdefault(sample.sha256, sample)
        if known.label != sample.label:
            yield (
                f"{sample.path} ({classes[sample.label]}) and {known.path} ({classes[known.label]}) are the same picture; "
                "keep it where it belongs"
            )


def _about_copies(samples: Sequence[Sample]) -> Iterator[str]:
    first: dict[str, Sample] = {}
    copies = [(sample, known) for sample in samples if (known := first.setdefault(sample.sha256, sample)) is not sample]
    if copies:
        sample, known = copies[0]
        yield f"{pictures(len(copies))} copied from another, e.g. {sample.path} is {known.path}: copies are held back together"


def _about_places(root: Path, folders: dict[str, list[Path]]) -> Iterator[str]:
    if beside := [path for path in _entries(root) if is_picture(path)]:
        yield f"{root}: {pictures(len(beside))} beside the folders of the classes, e.g. {beside[0].name}: not read; move them into one"
    for name, entries in folders.items():
        inner = [path for entry in entries if entry.is_dir() for path in sorted(entry.rglob("*")) if is_picture(path)]
        if inner:
            yield f"{root / name}: {pictures(len(inner))} in folders within it, e.g. {inner[0]}: not read; move them up"


def _about_classes(samples: Sequence[Sample], classes: tuple[str, ...], found: tuple[str, ...]) -> Iterator[str]:
    for one, other in itertools.combinations(found, 2):
        if alike(one, other):
            yield f"classes {one} and {other} have names like one another; is one a typo of the other?"
    counts = Dataset(classes, tuple(samples)).counts()
    for name in classes:
        if name not in found:
            yield f"class {name}: there is no folder of it; nothing is said about it"
        elif counts[name] < _FEW:
            yield f"class {name}: has {pictures(counts[name])}; what is learned from under {_FEW}, and measured on them, means little"
    largest = max(counts, key=lambda name: counts[name])
    if small := [name for name in found if counts[name] * 10 < counts[largest]]:
        listed = ", ".join(f"{name} ({counts[name]})" for name in small)
        yield f"under a tenth of the {counts[largest]} pictures of {largest}: {listed}; more pictures of these would help"
