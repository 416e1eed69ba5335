"""A deployed network that scores differently than it did in training refuses to run; and which pictures show that best."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY, station

from station import inspector, recipe
from station.inspector import Inspector
from station.recipe import RecipeError
from station.training.golden import golden
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import EngineError
from station.vision.parity import reference
from station.vision.weights import LoadedWeights

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- a network that is not what it was


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The demo, with files of its own to tamper with."""
    for folder in ("recipes", "weights"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    shutil.copy(REPOSITORY / "station.yaml", tmp_path)
    return tmp_path


def tampered(home: Path, change: Callable[[Tensors, dict[str, Any]], object]) -> None:
    """Changes the bulb's weights file, and its hash in the recipe too: as a careless tool would, or somebody who means it."""
    file, document = home / "weights/bulb.safetensors", home / "recipes/bulb/recipe.yaml"
    data = file.read_bytes()
    before = hashlib.sha256(data).hexdigest()
    tensors = safetensors.torch.load(data)
    known = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["station"])
    change(tensors, known)
    file.write_bytes(safetensors.torch.save(tensors, {"station": json.dumps(known)}))
    text = document.read_text()
    assert before in text
    document.write_text(text.replace(before, hashlib.sha256(file.read_bytes()).hexdigest()))


def prepare(home: Path) -> Inspector:
    return inspector.prepare(recipe.find(home / "recipes", "bulb"), home / "weights", home / "engines", "cpu")


def scale_std(_: Tensors, known: dict[str, Any]) -> None:
    known["description"]["std"] = [1.1 * value for value in known["description"]["std"]]


def take_red_for_blue(_: Tensors, known: dict[str, Any]) -> None:
    for key in ("mean", "std"):
        known["description"][key].reverse()


def change_one_weight(tensors: Tensors, _: dict[str, Any]) -> None:
    flat = tensors["trunks.0.0.weight"].view(-1)
    flat[flat.abs().argmax()] *= 0.9


def lean_towards_good(tensors: Tensors, _: dict[str, Any]) -> None:
    tensors["classifier.bias"][0] += 0.2


def swap_two_classes(tensors: Tensors, _: dict[str, Any]) -> None:
    for key in ("classifier.weight", "classifier.bias"):
        tensors[key][[1, 2]] = tensors[key][[2, 1]]


def make_noisy(tensors: Tensors, _: dict[str, Any]) -> None:
    """By a few hundredths of what they are, as too few bits would."""
    generator = torch.Generator().manual_seed(0)
    for key, tensor in sorted(tensors.items()):  # a file gives them in no order
        if not key.startswith("golden") and len(tensor) > 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.05 * float(tensor.std()))


def test_the_demo_is_fit_to_run_and_so_is_a_copy_with_another_card(home: Path) -> None:
    tampered(home, lambda _, known: known["card"].update(note="copied"))
    assert prepare(home).recipe.name == "bulb"


@pytest.mark.parametrize(
    "change", [scale_std, take_red_for_blue, change_one_weight, lean_towards_good, swap_two_classes, make_noisy], ids=lambda f: f.__name__
)
def test_a_network_that_scores_otherwise_than_in_training_is_refused(home: Path, change: Callable[[Tensors, Any], None]) -> None:
    tampered(home, change)
    with pytest.raises(
        RecipeError, match=r"(?s)recipe\.yaml: network\.weights: .*bulb\.safetensors: golden picture \d: was \w+ 0\.\d+ in .*bring"
    ):
        prepare(home)


def test_a_network_whose_numbers_are_not_finite_is_refused_as_a_recipe(home: Path) -> None:
    tampered(home, lambda tensors, _: tensors["classifier.bias"].fill_(float("nan")))
    with pytest.raises(RecipeError, match=r"recipe\.yaml: network\.weights: .*not finite"):
        prepare(home)


def test_a_network_without_golden_pictures_is_refused(home: Path) -> None:
    def forget(tensors: Tensors, known: dict[str, Any]) -> None:
        known.pop("golden")
        for key in [key for key in tensors if key.startswith("golden")]:
            del tensors[key]

    tampered(home, forget)
    with pytest.raises(RecipeError, match=r"recipe\.yaml: network\.weights: .*bulb\.safetensors holds no golden pictures.*train it again"):
        prepare(home)


def test_damaged_golden_pictures_are_refused_as_a_recipe(home: Path) -> None:
    tampered(home, lambda tensors, _: tensors.pop("golden.0"))
    with pytest.raises(RecipeError, match=r"recipe\.yaml: network\.weights: .*golden pictures are damaged"):
        prepare(home)


def test_a_device_that_is_not_there_is_no_fault_of_the_recipe(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="cuda"):
        inspector.prepare(recipe.find(home / "recipes", "bulb"), home / "weights", home / "engines", "cuda")


def test_the_commands_refuse_what_prepare_refuses(home: Path) -> None:
    tampered(home, change_one_weight)
    (bulb,) = station(home, "recipe", "check", "bulb", code=2)
    assert not bulb["ok"]
    assert "golden picture" in bulb["error"]


# --- which pictures are golden


class Says:
    """An engine that says of a picture what stands in its first pixel: an index into the given probabilities."""

    def __init__(self, *said: tuple[float, ...], trunks: int = 1) -> None:
        self.description = NetworkDescription(tuple("abcdefgh"[: len(said[0])]), input_size=32, trunks=trunks)
        self.said = said

    def see(self, pixels: np.ndarray, pixel_format: str) -> Any:
        assert (pixels.dtype, pixels.shape, pixel_format) == (np.uint8, (32, 32, 3), "RGB8")
        return type("Seen", (), {"probabilities": np.array(self.said[pixels[0, 0, 0]], dtype=np.float32)})

    def golden(self, *labels: int) -> list[int]:
        """Which of the pictures are chosen, one a probability and label."""
        pictures = ((np.full((32, 32, 3), number, dtype=np.uint8), "RGB8", label) for number, label in enumerate(labels))
        chosen = golden(self, pictures)  # type: ignore[arg-type]
        assert all(np.array_equal(one.probabilities, np.float32(self.said[one.rgb[0, 0, 0]])) for one in chosen)
        return [int(one.rgb[0, 0, 0]) for one in chosen]


def test_of_each_class_the_least_sure_right_one_is_golden() -> None:
    says = Says((0.9, 0.1), (0.6, 0.4), (0.99, 0.01), (0.45, 0.55), (0.1, 0.9), (0.2, 0.8))
    assert says.golden(0, 0, 0, 0, 1, 1) == [1, 5]  # picture 3 is the least sure one, but wrong


def test_no_more_classes_than_the_limit_are_golden_and_those_the_least_sure() -> None:
    sure = np.array([0.99, 0.6, 0.9, 0.7, 0.95, 0.8])
    said = [tuple(np.where(np.arange(6) == row, sure[row], (1 - sure[row]) / 5)) for row in range(6)]
    assert Says(*said).golden(*range(6)) == [1, 3, 5, 2]
    assert Says(*said, trunks=4).golden(*range(6)) == [1, 3]


def test_a_narrow_lead_is_golden_only_when_there_is_no_other() -> None:
    narrow, narrower = (0.509, 0.491), (0.501, 0.499)
    assert Says((0.9, 0.1), narrow).golden(0, 0) == [0]
    assert Says(narrow, narrower).golden(0, 0) == [0]
    assert Says(narrower, narrow).golden(0, 0) == [1]


def test_a_class_that_is_never_recognised_has_no_golden_picture() -> None:
    assert Says((0.9, 0.1), (0.8, 0.2)).golden(0, 1) == [0]
    assert Says((0.9, 0.1)).golden(1) == []


@pytest.mark.parametrize(
    ("pixel_format", "dtype", "full"), [("RGB8", np.uint8, 255), ("Mono12", np.uint16, 4095), ("BayerRG8", np.uint8, 255)]
)
def test_golden_pictures_of_any_format_are_scored_as_they_will_be_stored(pixel_format: str, dtype: type, full: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = BilinearDVGG16(NetworkDescription(("good", "crack"), width=1 / 16, input_size=32, trunks=1))
    loaded = LoadedWeights(network, network.description, {}, "")
    shape = (50, 40, 3) if pixel_format == "RGB8" else (50, 40)
    pixels = [np.random.default_rng(seed).integers(0, full + 1, shape).astype(dtype) for seed in range(2)]
    engine = reference(loaded, "cpu")
    chosen = golden(engine, [(one, pixel_format, label) for one in pixels for label in (0, 1)])
    assert chosen
    assert chosen[0].rgb.max() > 150
    assert np.allclose(chosen[0].probabilities, engine.see(pixels[0], pixel_format).probabilities, atol=0.05)
    weights.save(tmp_path / "w.safetensors", network, {}, chosen)
    assert reference(weights.load(tmp_path / "w.safetensors"), "cpu").golden_difference == 0
