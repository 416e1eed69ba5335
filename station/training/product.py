"""`station train`: from labelled pictures to weights and a recipe that runs with them.

A recipe and its weights are a pair at every moment, also when power fails: weights get a file of their own, named after their content, and
only then the recipe is replaced, as one file. The weights before stay, and with them every older recipe.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drivers.camera import Feature
from station import inspector
from station.config import Home
from station.recipe import Recipe, RecipeDocument, RecipeError, load, load_all
from station.training import recipe_file
from station.training.dataset import Dataset, DatasetError, nearest, read_folder
from station.training.train import Goal, Report, Settings, train
from station.vision import weights
from station.vision.engine import EngineError
from station.vision.preprocess import rgb_from_file
from station.vision.weights import WeightsError

SuggestFeatures = Callable[[int, int, bool], Mapping[str, Feature]]
_GOOD_NAMES = frozenset({"good", "ok"})
_MINIMUM_PROBABILITY = 0.9
_NOT_TRAINED_YET = "0" * 64
_PASSES_NOTHING = (
    "this recipe passes NOTHING: no class is good, so every part is answered FAIL; "
    "if parts of a class may pass, train with --good CLASS, or write the class under good in the recipe"
)


def train_recipe(
    home: Home,
    name: str,
    data: Path,
    settings: Settings,
    good: tuple[str, ...] | None,
    camera: SuggestFeatures,
    progress: Callable[[str], None],
) -> dict[str, Any] | None:
    """Trains on `data` and lets the recipe `name` judge by it: an existing one gets the new network, a missing one is written.

    What can be wrong is found before the training. The new network is tested with the recipe, self-test and all, before either is put where
    the station reads them; until then, and after any error, recipes and weights are what they were.

    Args:
        good: the classes that may pass; by default an existing recipe's, or those called good or ok, or none.
        camera: the features of a new recipe for pictures of (width, height) px, in colour or grey, in their order.
        progress: is told one line of text a step.

    Returns:
        the training's report with the recipe's name, the weights file in its place, and `warnings`; None in the processes of `torchrun`
        that do not lead.

    Raises:
        RecipeError: the name is unusable, the existing recipe cannot be read or changed or is of other classes, or the new network fails
            the recipe's self-test: the message says where both were left to be looked at.
        CameraError: as `camera`.
        DatasetError, TrainingError, WeightsError, EngineError, ValueError, OSError: as `read_folder` and `train`.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        raise RecipeError(f"recipe {name}: write a name of small letters, digits, - and _ that begins with a letter")
    work = home.folder / "data" / "training" / name
    if work.resolve().is_relative_to(data.resolve()) or data.resolve().is_relative_to(work.resolve()):
        raise DatasetError(f"{data}: the training of {name} keeps its own files in {work}; put the pictures elsewhere, such as data/{name}")
    dataset = read_folder(data)
    product = (
        _existing(home, name, data, dataset, good)
        if (home.recipes / name / "recipe.yaml").is_file()
        else _new(home, name, data, dataset, good, camera)
    )
    warnings = [*product.dataset.warnings, *([] if product.good else [_PASSES_NOTHING])]
    if _leads():
        for warning in warnings:
            progress(f"warning: {warning}")
        shutil.rmtree(product.draft, ignore_errors=True)
        product.drafted(_NOT_TRAINED_YET, {})
    report = train(product.dataset, product.draft / "trained.safetensors", settings, product.goal, work, progress)
    if report is None:
        return None
    recipe = _tested(product, report, settings.device)
    _install(product, recipe)
    shutil.rmtree(product.draft)
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return {"recipe": name, **report, "weights": str(home.weights / recipe.document.network.weights), "warnings": warnings}


def _leads() -> bool:
    """Whether this is the one process that speaks and writes; `torchrun` numbers those that it starts."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class _Product:
    """What is trained for.

    Attributes:
        dataset: its classes in the network's order, the good ones first.
        camera: of a new recipe.
        before: the recipe that is there already.
    """

    home: Home
    name: str
    dataset: Dataset
    good: tuple[str, ...]
    camera: Mapping[str, Feature]
    before: Recipe | None

    @property
    def draft(self) -> Path:
        """A folder like a home's, in which the new pair is tested. No recipe's name has a dot."""
        return self.home.folder / "data" / "training" / f"{self.name}.new"

    @property
    def goal(self) -> Goal:
        return Goal(self.good, self.before.document.minimum_probability if self.before else _MINIMUM_PROBABILITY)

    def drafted(self, sha256: str, self_test: Mapping[str, str]) -> Recipe:
        """The recipe as it will be with the weights of this hash, in the draft.

        Args:
            self_test: a picture by class; the first one of a class that is not there.

        Raises:
            RecipeError: no such recipe can be, or the one before cannot be edited.
        """
        folder = self.draft / self.name
        folder.mkdir(parents=True, exist_ok=True)
        file = f"{self.name}-{sha256[:8]}.safetensors"
        if self.before:
            now = load(self.before.folder)  # somebody may have edited it while the network was trained
            for image in ("recipe.yaml", *(test.image for test in now.document.self_test)):
                shutil.copyfile(self.before.folder / image, folder / image)
            recipe_file.edit(folder / "recipe.yaml", {"network.weights": file, "network.sha256": sha256})
        else:
            pictures = {sample.label: sample.path for sample in reversed(self.dataset.samples)}
            pictures |= {self.dataset.classes.index(class_name): Path(path) for class_name, path in self_test.items()}
            (folder / "recipe.yaml").write_text(self._text(file, sha256, _copied(pictures, folder, self.dataset.classes)), encoding="utf-8")
        return load(folder)

    def _text(self, file: str, sha256: str, tests: Mapping[str, str]) -> str:
        """A first recipe: the camera as it says, everything else is there to be adjusted.

        Args:
            tests: the class of each self-test picture.
        """
        known, _ = load_all(self.home.recipes)
        number = max((recipe.number for recipe in known.values()), default=0) + 1
        lines = [
            f"number: {number}",
            yaml.safe_dump({"camera": dict(self.camera)}, sort_keys=False, allow_unicode=True).rstrip(),
            f'network:\n  weights: "{file}"\n  sha256: "{sha256}"',
            f"good: {_words(self.good)}",
            f"minimum_probability: {_MINIMUM_PROBABILITY}",
            "deadline_ms: 2000",
            "localization: {method: otsu}",
            "self_test:",
            *(f"  - {{image: {_words(image)}, class: {_words(class_name)}}}" for image, class_name in tests.items()),
        ]
        return "\n".join(lines) + "\n"


def _words(value: object) -> str:
    """YAML that nobody reads as a number or a date."""
    return json.dumps(value, ensure_ascii=False)


def _copied(pictures: Mapping[int, Path], folder: Path, classes: tuple[str, ...]) -> dict[str, str]:
    """Copies the self-test pictures into the folder: file name -> class."""
    copies = {}
    for label, path in sorted(pictures.items()):
        image = f"{label}-{re.sub(r'[^a-zA-Z0-9_-]+', '_', classes[label])}{path.suffix.lower()}"
        shutil.copyfile(path, folder / image)
        copies[image] = classes[label]
    return copies


def _new(home: Home, name: str, data: Path, dataset: Dataset, good: tuple[str, ...] | None, camera: SuggestFeatures) -> _Product:
    if good is None:
        good = tuple(class_name for class_name in dataset.classes if class_name.casefold() in _GOOD_NAMES)
    good = tuple(dict.fromkeys(good))
    for class_name in good:
        if class_name not in dataset.classes:
            raise RecipeError(f"good: {class_name}: no such class in {data}; {nearest(class_name, dataset.classes)}")
    if not set(dataset.classes) - set(good):
        raise RecipeError(f"good: {', '.join(good)}: are all classes of {data}; there would be no defect to find")
    rgb = rgb_from_file(dataset.samples[0].path)
    height, width, _ = rgb.shape
    colour = bool((rgb != rgb[..., :1]).any())
    return _Product(home, name, _good_first(dataset, good), good, camera(width, height, colour) if _leads() else {}, None)


def _existing(home: Home, name: str, data: Path, dataset: Dataset, good: tuple[str, ...] | None) -> _Product:
    before = load(home.recipes / name)
    document = before.document
    if good is not None and set(good) != set(document.good):
        raise RecipeError(
            f"{before.file}: good: is {', '.join(document.good) or 'empty'}; edit it there, or leave out --good {','.join(good)}"
        )
    if not os.access(before.folder, os.W_OK):
        raise RecipeError(f"{before.folder}: cannot be written to; training has to replace recipe.yaml in it")
    known = _classes(document, home.weights)
    wrong = [
        f"{data}: class {name} is unknown to {before.file} ({nearest(name, known)}); a new class needs a picture of it under self_test"
        for name in dataset.classes
        if name not in known
    ]
    wrong += [
        f"{data}: has no class {name}, which {before.file} or its network knows ({nearest(name, dataset.classes)}); "
        "to leave it out, train a recipe of another name"
        for name in known
        if name not in dataset.classes
    ]
    if wrong:
        raise RecipeError("\n".join(wrong))
    return _Product(home, name, _good_first(dataset, document.good), document.good, {}, before)


def _classes(document: RecipeDocument, folder: Path) -> tuple[str, ...]:
    """Those that the recipe names, and those of its network where that is there."""
    named = [*document.good, *(test.class_name for test in document.self_test)]
    with contextlib.suppress(WeightsError):  # training brings the weights that are missing
        named += weights.load(folder / document.network.weights).description.classes
    return tuple(dict.fromkeys(named))


def _good_first(dataset: Dataset, good: tuple[str, ...]) -> Dataset:
    return dataset.reordered((*good, *(class_name for class_name in dataset.classes if class_name not in good)))


def _tested(product: _Product, report: Report, device: str) -> Recipe:
    """The recipe in the draft, which ran there with the new network."""
    try:
        recipe = product.drafted(report["sha256"], report["self_test"])
        (product.draft / "trained.safetensors").replace(product.draft / recipe.document.network.weights)
        inspector.prepare(recipe, product.draft, product.home.engines, device)
    except (RecipeError, EngineError, OSError) as error:
        raise _untouched(product, error) from None
    return recipe


def _install(product: _Product, recipe: Recipe) -> None:
    """Puts the tested pair where the station reads it; recipe.yaml, which makes it count, last and at once."""
    network = recipe.document.network
    folder = product.home.recipes / product.name
    try:
        product.home.weights.mkdir(parents=True, exist_ok=True)
        weights.write_whole(product.home.weights / network.weights, (product.draft / network.weights).read_bytes())
        if product.before:
            recipe_file.edit(product.before.file, {"network.weights": network.weights, "network.sha256": network.sha256})
            return
        folder.mkdir(parents=True, exist_ok=True)
        for test in recipe.document.self_test:
            weights.write_whole(folder / test.image, (recipe.folder / test.image).read_bytes())
        weights.write_whole(folder / "recipe.yaml", recipe.file.read_bytes())
    except (RecipeError, OSError) as error:
        raise _untouched(product, error) from None


def _untouched(product: _Product, error: Exception) -> RecipeError:
    was = "keeps its old weights" if product.before else "was not written"
    return RecipeError(f"{error}\nrecipe {product.name} {was}; the new network and the recipe it was tested with are in {product.draft}")
