"""`station train`: from labelled pictures to weights and a recipe that runs with them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from station import inspector
from station.config import Home
from station.recipe import RecipeError, find, load, load_all
from station.training.dataset import Dataset, read_folder
from station.training.train import Settings, train
from station.vision.preprocess import rgb_from_file

_HASH = re.compile(r'(?m)^(\s*sha256:\s*)"?[0-9a-f]{64}"?')


def train_recipe(
    home: Home, name: str, data: Path, settings: Settings, good: tuple[str, ...], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Trains on `data` and lets the recipe `name` judge by it: an existing one gets the new network's hash, a missing one is written.

    What can be wrong is found before the training. The weights are in place before the recipe names them, and the recipe is prepared once,
    self-test and all, before this returns.

    Raises:
        RecipeError: the name is unusable, the existing recipe cannot be read or changed, or the new network fails its self-test.
        DatasetError, TrainingError, WeightsError, ValueError: as `train`.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise RecipeError(f"recipe {name}: write a name of small letters, digits, - and _")
    folder = home.recipes / name
    exists = (folder / "recipe.yaml").is_file()
    dataset = read_folder(data, None)
    if exists:
        good = _changeable(folder, name)
    if missing := set(good) - set(dataset.classes):
        raise RecipeError(f"good: {', '.join(sorted(missing))}: no such class in {data}; there are {', '.join(dataset.classes)}")
    classes = (*good, *(class_name for class_name in dataset.classes if class_name not in good))
    home.weights.mkdir(parents=True, exist_ok=True)
    report = train(data, home.weights / f"{name}.safetensors", settings, classes, progress)
    if exists:
        text = (folder / "recipe.yaml").read_text(encoding="utf-8")
        _replace(folder / "recipe.yaml", _HASH.sub(rf'\g<1>"{report["sha256"]}"', text))
    else:
        _write_recipe(home, folder, dataset, good, report["sha256"])
    inspector.prepare(find(home.recipes, name), home.weights, settings.device)
    return {"recipe": name, **report}


def _changeable(folder: Path, name: str) -> tuple[str, ...]:
    """The good classes of an existing recipe, once it is sure that its hash can be replaced and nothing else touched."""
    document = load(folder).document
    file = folder / "recipe.yaml"
    if document.network.weights != f"{name}.safetensors":
        raise RecipeError(f"{file}: network.weights: {document.network.weights} is not what training writes; write {name}.safetensors")
    if len(_HASH.findall(file.read_text(encoding="utf-8"))) != 1:
        raise RecipeError(f"{file}: network.sha256: write it on a line of its own, so that training can replace it")
    return document.good


def _write_recipe(home: Home, folder: Path, dataset: Dataset, good: tuple[str, ...], sha256: str) -> None:
    """A first recipe: the camera takes pictures of the training pictures' size; everything else is there to be adjusted."""
    known, _ = load_all(home.recipes)
    folder.mkdir(parents=True, exist_ok=True)
    tests = []
    for label, class_name in enumerate(dataset.classes):
        sample = next(sample for sample in dataset.samples if sample.label == label)
        image = f"{label}{sample.path.suffix.lower()}"
        shutil.copyfile(sample.path, folder / image)
        tests.append(f"  - {{image: {image}, class: {json.dumps(class_name)}}}")
    height, width = rgb_from_file(dataset.samples[0].path).shape[:2]
    lines = [
        f"number: {max((recipe.number for recipe in known.values()), default=0) + 1}",
        f"camera: {{Width: {width}, Height: {height}}}",
        f'network:\n  weights: {folder.name}.safetensors\n  sha256: "{sha256}"',
        f"good: {json.dumps(good)}",
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
