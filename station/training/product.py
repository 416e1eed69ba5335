"""`station train`: from labelled pictures to weights and a recipe that runs with them."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from station.config import Home
from station.recipe import RecipeError, load, load_all
from station.training.dataset import Dataset, read_folder
from station.training.train import Settings, train
from station.vision.preprocess import rgb_from_file


def train_recipe(
    home: Home, name: str, data: Path, settings: Settings, good: tuple[str, ...], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Trains on `data` and lets the recipe `name` judge by it: an existing one gets the new network's hash, a missing one is written.

    The weights are in place before the recipe names them, so that a recipe never names a network that is not there.

    Raises:
        RecipeError: the name is unusable, or the existing recipe cannot be read.
        DatasetError, TrainingError, WeightsError, ValueError: as `train`.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise RecipeError(f"recipe {name}: write a name of small letters, digits, - and _")
    folder = home.recipes / name
    exists = (folder / "recipe.yaml").is_file()
    dataset = read_folder(data, None)
    if exists:
        good = load(folder).document.good
    if missing := set(good) - set(dataset.classes):
        raise RecipeError(f"good: {', '.join(sorted(missing))}: no such class in {data}; there are {', '.join(dataset.classes)}")
    classes = (*good, *(name for name in dataset.classes if name not in good))
    report = train(data, home.weights / f"{name}.safetensors", settings, classes, progress)
    if exists:
        _name_weights(folder / "recipe.yaml", report["sha256"])
    else:
        _write_recipe(home, folder, dataset, good, report["sha256"])
    return {"recipe": name, **report}


def _name_weights(file: Path, sha256: str) -> None:
    """Replaces the hash in an existing recipe and leaves every other character as it is."""
    text, count = re.subn(r'(?m)^(\s*sha256:\s*)"?[0-9a-f]{64}"?', rf'\g<1>"{sha256}"', file.read_text(encoding="utf-8"))
    if count != 1:
        raise RecipeError(f"{file}: network.sha256: write {sha256} there; the line was not found")
    _replace(file, text)


def _write_recipe(home: Home, folder: Path, dataset: Dataset, good: tuple[str, ...], sha256: str) -> None:
    known, _ = load_all(home.recipes)
    number = max((recipe.number for recipe in known.values()), default=0) + 1
    folder.mkdir(parents=True)
    tests = []
    for class_name in dataset.classes:
        sample = next(sample for sample in dataset.samples if dataset.classes[sample.label] == class_name)
        image = class_name + sample.path.suffix.lower()
        shutil.copyfile(sample.path, folder / image)
        tests.append(f"  - {{image: {image}, class: {class_name}}}")
    height, width = rgb_from_file(dataset.samples[0].path).shape[:2]
    lines = [
        f"number: {number}",
        f"camera: {{Width: {width}, Height: {height}}}",
        f'network:\n  weights: {folder.name}.safetensors\n  sha256: "{sha256}"',
        f"good: [{', '.join(good)}]",
        "minimum_probability: 0.9",
        "deadline_ms: 2000",
        "localization: {method: otsu}",
        "self_test:",
        *tests,
    ]
    _replace(folder / "recipe.yaml", "\n".join(lines) + "\n")


def _replace(file: Path, text: str) -> None:
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)
