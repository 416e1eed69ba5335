"""`station weights`: what is in a home's `weights/`, does it still score as it did, and how a file gets there.

weights/NAME.safetensors   trained networks, which recipes name by file name and SHA-256
weights/pretrained/NAME    VGG16 trunks to start a training from, other than torchvision's own
"""

import hashlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from station.config import Home
from station.recipe import Recipe, load_all
from station.training.pretrained import imagenet_file, is_imagenet, load_trunk, trunk_sha256
from station.vision.engine import GOLDEN_TOLERANCE, EngineError, GoldenError, choose_device
from station.vision.parity import reference
from station.vision.weights import LoadedWeights, WeightsError, load, write_whole


class Verified(TypedDict):
    """What became of one weights file's verification.

    Keys:
        name, sha256: of the file; the hash is empty when it cannot be read.
        recipes: which name it, and whether with this very hash.
        device: where the golden pictures were scored.
        golden: how many there are.
        max_difference: the largest of a golden probability from what it was in training; None when nothing could be scored.
        tolerance: the largest that may be.
        ok: it is whole, every recipe names its hash, and it scores as it did in training.
        error: why not, in words.
    """

    name: str
    sha256: str
    recipes: dict[str, bool]
    device: str
    golden: int
    max_difference: float | None
    tolerance: float
    ok: bool
    error: str


class Placed(TypedDict):
    """A file that was fetched or imported.

    Keys:
        kind: "trained" for a network of `station train`, "pretrained" for a VGG16 trunk.
        file: where it is now.
        sha256: of the file's bytes.
        trunk_sha256: of a pretrained file's trunk, as a training that used it says in the weights file's card; else empty.
        use: the words to use it by, in a recipe or with `station train`.
    """

    kind: str
    file: str
    sha256: str
    trunk_sha256: str
    use: str


def contents(home: Home) -> list[dict[str, Any]]:
    """Each *.safetensors in the home's weights folder, and each that a recipe names but that is not there, by name.

    Keys: name, recipes (that name it), and either size (bytes), sha256, classes, width, input_size, trunks, head, pretrained, accuracy (of
    the card's validation, or None) and golden (how many pictures); or error.
    """
    return [_described(home, name, list(recipes)) for name, recipes in _names(home).items()]


def verify(home: Home, name: str | None, device: str) -> list[Verified]:
    """Hash and golden scores, on this machine and device, of the weights file called `name`, or of all there are.

    Raises:
        WeightsError: there is no such file.
        EngineError: the device is not there.
    """
    known = _names(home)
    name = None if name is None else Path(name).name
    if name is not None and name not in known:
        raise WeightsError(f"{home.weights / name}: no such weights file; there are {', '.join(known) or 'none'}")
    kind = choose_device(device).type
    return [_verified(home, one, recipes, kind) for one, recipes in known.items() if name in (None, one)]


def fetch() -> Placed:
    """ImageNet's VGG16 by way of torchvision, downloaded unless it is here: what `--pretrained imagenet` starts from.

    Raises:
        WeightsError: torchvision is not installed, or the file can be neither found nor downloaded; the message says which to bring where.
    """
    trunk = load_trunk("imagenet")
    return _pretrained(imagenet_file(), "imagenet", trunk)


def import_file(home: Home, path: Path) -> Placed:
    """Puts a file where it is looked for, whole or not at all: a network of `station train`, or VGG16's weights.

    A trained network goes to the home's weights folder. Torchvision's ImageNet file goes to torchvision's folder, any other VGG16 state
    dict to weights/pretrained/. A file that is already there is left alone.

    Raises:
        WeightsError: the file is neither, or a different one of that name is there already.
        OSError: the place cannot be written to.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give a weights file of `station train`, or a VGG16 state dict (.safetensors, .pth)")
    if path.suffix == ".safetensors":
        try:
            trained = load(path)
        except WeightsError as error:
            no_network = str(error)
        else:
            return _import_trained(home, path, trained)
    else:
        no_network = f"{path}: the name of a weights file of `station train` ends with .safetensors"
    try:
        trunk = load_trunk(str(path))
    except WeightsError as error:
        raise WeightsError(f"neither a trained network: {no_network}\nnor a VGG16 to start from: {error}") from None
    place, source = _place_of_trunk(home, path)
    _copy(path, place)
    return _pretrained(place, source, trunk)


def _names(home: Home) -> dict[str, dict[str, Recipe]]:
    """The weights files there are or that a recipe names, each with the recipes that do."""
    recipes, _ = load_all(home.recipes)
    files = {path.name for path in home.weights.glob("*.safetensors")}
    named = {recipe.document.network.weights for recipe in recipes.values()}
    return {
        name: {recipe.name: recipe for recipe in recipes.values() if recipe.document.network.weights == name}
        for name in sorted(files | named)
    }


def _described(home: Home, name: str, recipes: list[str]) -> dict[str, Any]:
    try:
        loaded = load(home.weights / name)
    except WeightsError as error:
        return {"name": name, "recipes": recipes, "error": str(error)}
    description = loaded.description
    return {
        "name": name,
        "recipes": recipes,
        "size": (home.weights / name).stat().st_size,
        "sha256": loaded.sha256,
        "classes": list(description.classes),
        "width": description.width,
        "input_size": description.input_size,
        "trunks": description.trunks,
        "head": description.head,
        "pretrained": description.pretrained,
        "accuracy": _accuracy(loaded.card),
        "golden": len(loaded.golden),
    }


def _accuracy(card: Mapping[str, Any]) -> float | None:
    validation = card.get("validation")
    return validation.get("accuracy") if isinstance(validation, dict) else None


def _verified(home: Home, name: str, recipes: Mapping[str, Recipe], device: str) -> Verified:
    file = home.weights / name
    sha256, golden, difference, wrong = "", 0, None, []
    try:
        loaded = load(file)
        sha256, golden = loaded.sha256, len(loaded.golden)
        difference = reference(loaded, device).golden_difference if golden else None
        if not golden:
            wrong.append(f"{file}: holds no golden pictures, so nothing tells how it should score; train it again")
    except WeightsError as error:
        wrong.append(str(error))
    except GoldenError as error:
        difference = error.difference
        wrong.append(f"{file}: {error}")
    except EngineError as error:
        wrong.append(f"{file}: {error}")
    named = {recipe.name: recipe.document.network.sha256 == sha256 for recipe in recipes.values()}
    others = [str(recipe.file) for recipe in recipes.values() if sha256 and not named[recipe.name]]
    wrong += [f"{other}: network.sha256: is not that of {file}, which is {sha256}" for other in others]
    return Verified(
        name=name,
        sha256=sha256,
        recipes=named,
        device=device,
        golden=golden,
        max_difference=difference,
        tolerance=GOLDEN_TOLERANCE,
        ok=not wrong,
        error="; ".join(wrong),
    )


def _import_trained(home: Home, path: Path, trained: LoadedWeights) -> Placed:
    if not trained.golden:
        raise WeightsError(f"{path}: holds no golden pictures, so no recipe could run with it; train it again")
    if not re.fullmatch(r"[\w.-]+", path.name):
        raise WeightsError(f"{path}: no recipe can name this file; rename it with letters, digits, . _ and - only")
    place = home.weights / path.name
    _copy(path, place)
    use = f'network: {{weights: {path.name}, sha256: "{trained.sha256}"}}'
    return Placed(kind="trained", file=str(place), sha256=trained.sha256, trunk_sha256="", use=use)


def _place_of_trunk(home: Home, path: Path) -> tuple[Path, str]:
    """Where a VGG16's file belongs, and what `--pretrained` calls it there."""
    try:
        if is_imagenet(path):
            return imagenet_file(), "imagenet"
    except WeightsError:
        pass  # without torchvision nobody looks in its folder
    place = home.weights / "pretrained" / path.name
    return place, str(place)


def _copy(path: Path, place: Path) -> None:
    data = path.read_bytes()
    if place.is_file():
        if place.read_bytes() == data:
            return
        raise WeightsError(f"{place}: is there already and differs from {path}; give one of them another name, or delete the old one")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, data)


def _pretrained(place: Path, source: str, trunk: dict[str, Tensor]) -> Placed:
    with place.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    use = f"--pretrained {shlex.quote(source)}"
    return Placed(kind="pretrained", file=str(place), sha256=sha256, trunk_sha256=trunk_sha256(trunk), use=use)
