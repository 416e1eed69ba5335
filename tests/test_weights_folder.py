"""`station weights`: what is there, does it score as it did, and how a file gets where it is looked for."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY

from station.config import Home
from station.training import pretrained, weights_folder
from station.training.pretrained import import_torchvision, load_trunk, trunk_sha256
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import EngineError
from station.vision.parity import reference
from station.vision.weights import Golden, LoadedWeights, WeightsError

needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="the extra `train` is not installed")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The demo's recipes and weights."""
    made = Home(tmp_path / "home")
    shutil.copytree(REPOSITORY / "recipes", made.recipes)
    made.weights.mkdir()
    for name in ("bulb", "iron"):
        shutil.copy(REPOSITORY / f"weights/{name}.safetensors", made.weights)
    return made


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole VGG16 trunk of random weights, as torchvision names it, in float16."""
    torch.manual_seed(0)
    trunk = BilinearDVGG16(NetworkDescription(("a", "b"), trunks=1)).trunks[0]
    path = tmp_path_factory.mktemp("trunk") / "vgg16-random.safetensors"
    safetensors.torch.save_file({f"features.{key}": value.half() for key, value in trunk.state_dict().items()}, path)
    return path


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trunk_file: Path) -> Path:
    """The file that torchvision publishes, here of random weights, and no way to download it."""
    file = tmp_path / "brought.pth"
    torch.save(safetensors.torch.load_file(trunk_file), file)
    name = f"vgg16-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(import_torchvision().models.VGG16_Weights.IMAGENET1K_V1.value, "url", (tmp_path / "nowhere" / name).as_uri())
    return file


def trained(path: Path, seed: int = 0, with_golden: bool = True) -> str:
    """A small network's weights file; its hash."""
    torch.manual_seed(seed)
    network = BilinearDVGG16(NetworkDescription(("good", "crack"), width=1 / 16, input_size=32, trunks=1))
    rgb = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    seen = reference(LoadedWeights(network, network.description, {}, ""), "cpu").see(rgb, "RGB8")
    return weights.save(path, network, {}, [Golden(rgb, seen.probabilities)] if with_golden else [])


# --- list


def test_the_list_says_what_each_file_is_and_which_recipes_name_it(home: Home) -> None:
    trained(home.weights / "spare.safetensors")
    bulb, iron, spare = weights_folder.contents(home)
    data = (home.weights / "bulb.safetensors").read_bytes()
    assert bulb == {
        "name": "bulb.safetensors",
        "recipes": ["bulb"],
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "classes": ["good", "break", "shell_wall_damage", "stain"],
        "width": 0.125,
        "input_size": 224,
        "trunks": 1,
        "head": "signed_sqrt_l2",
        "pretrained": "none",
        "accuracy": weights.load(home.weights / "bulb.safetensors").card["validation"]["accuracy"],  # type: ignore[index]
        "golden": 4,
    }
    assert bulb["accuracy"] > 0.98
    assert (iron["recipes"], iron["golden"]) == (["iron"], 2)
    assert (spare["recipes"], spare["accuracy"]) == ([], None)
    json.dumps([bulb, iron, spare])


def test_a_file_that_cannot_be_read_or_is_not_there_hides_no_other(home: Home) -> None:
    (home.weights / "bulb.safetensors").write_bytes(b"cut")
    (home.weights / "iron.safetensors").unlink()
    (home.weights / "notes.txt").write_text("x")
    trained(home.weights / "spare.safetensors")
    bulb, iron, spare = weights_folder.contents(home)
    assert "cut short" in bulb["error"]
    assert "cannot be read" in iron["error"]
    assert iron["recipes"] == ["iron"]
    assert "error" not in spare


def test_a_home_without_weights_lists_nothing(tmp_path: Path) -> None:
    assert weights_folder.contents(Home(tmp_path)) == []
    assert weights_folder.verify(Home(tmp_path), None, "cpu") == []


# --- verify


def test_files_that_score_as_they_did_are_verified(home: Home) -> None:
    bulb, iron = weights_folder.verify(home, None, "cpu")
    assert bulb["ok"]
    assert bulb["recipes"] == {"bulb": True}
    assert (bulb["golden"], bulb["tolerance"], bulb["device"], bulb["error"]) == (4, 0.01, "cpu", "")
    assert bulb["max_difference"] is not None
    assert bulb["max_difference"] < bulb["tolerance"] / 2
    assert iron["ok"]
    assert weights_folder.verify(home, "iron.safetensors", "cpu") == [iron]
    json.dumps([bulb, iron])


def test_a_file_that_scores_otherwise_says_by_how_much(home: Home) -> None:
    path = home.weights / "bulb.safetensors"
    loaded = weights.load(path)
    loaded.network.classifier.bias[0] += 1
    sha256 = weights.save(path, loaded.network, loaded.card, loaded.golden)
    (bulb,) = weights_folder.verify(home, "bulb.safetensors", "cpu")
    assert not bulb["ok"]
    assert bulb["max_difference"] is not None
    assert bulb["max_difference"] > 0.01
    assert bulb["recipes"] == {"bulb": False}
    assert "golden picture" in bulb["error"]
    assert f"bulb/recipe.yaml: network.sha256: is not that of {path}, which is {sha256}" in bulb["error"]


def test_another_file_of_that_name_is_not_what_the_recipe_names(home: Home) -> None:
    trained(home.weights / "bulb.safetensors")
    (bulb,) = weights_folder.verify(home, "bulb.safetensors", "cpu")
    assert (bulb["ok"], bulb["max_difference"], bulb["recipes"]) == (False, 0.0, {"bulb": False})
    assert "network.sha256" in bulb["error"]


def test_what_cannot_be_verified_is_not_ok(home: Home) -> None:
    (home.weights / "bulb.safetensors").write_bytes(b"cut")
    (home.weights / "iron.safetensors").unlink()
    trained(home.weights / "spare.safetensors", with_golden=False)
    loaded = weights.load(REPOSITORY / "weights/iron.safetensors")
    loaded.network.classifier.bias[0] = float("nan")
    weights.save(home.weights / "wild.safetensors", loaded.network, {}, loaded.golden)
    rows = weights_folder.verify(home, None, "cpu")
    assert [(row["ok"], row["max_difference"]) for row in rows] == [(False, None)] * 4
    for row, words in zip(rows, ("cut short", "cannot be read", "no golden pictures", "not finite"), strict=True):
        assert words in row["error"]
    assert rows[1]["recipes"] == {"iron": False}


def test_a_name_or_device_that_is_not_there_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"tyre\.safetensors: no such weights file; there are bulb\.safetensors, iron\.safetensors"):
        weights_folder.verify(home, "tyre.safetensors", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="cuda"):
        weights_folder.verify(home, None, "cuda")


# --- import


def test_a_trained_network_is_imported_whole_with_the_words_for_the_recipe(home: Home, tmp_path: Path) -> None:
    sha256 = trained(tmp_path / "plate.safetensors")
    shutil.rmtree(home.weights)
    for _ in range(2):
        placed = weights_folder.import_file(home, tmp_path / "plate.safetensors")
        assert placed == {
            "kind": "trained",
            "file": str(home.weights / "plate.safetensors"),
            "sha256": sha256,
            "trunk_sha256": "",
            "use": f'network: {{weights: plate.safetensors, sha256: "{sha256}"}}',
        }
    assert weights.load(home.weights / "plate.safetensors").sha256 == sha256
    assert [path.name for path in home.weights.iterdir()] == ["plate.safetensors"]


def test_a_different_file_of_that_name_is_never_replaced(home: Home, tmp_path: Path) -> None:
    trained(tmp_path / "bulb.safetensors")
    before = (home.weights / "bulb.safetensors").read_bytes()
    with pytest.raises(WeightsError, match=r"bulb\.safetensors: is there already and differs"):
        weights_folder.import_file(home, tmp_path / "bulb.safetensors")
    assert (home.weights / "bulb.safetensors").read_bytes() == before


def test_an_import_that_fails_half_way_leaves_no_file_of_that_name(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "plate.safetensors")

    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        weights_folder.import_file(home, tmp_path / "plate.safetensors")
    assert not (home.weights / "plate.safetensors").exists()


def test_what_is_neither_network_nor_vgg16_is_refused_with_what_it_is(home: Home, tmp_path: Path, trunk_file: Path) -> None:
    trained(tmp_path / "unverified.safetensors", with_golden=False)
    trained(tmp_path / "night shift.safetensors")
    trained(tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-9])
    (tmp_path / "page.pth").write_text("<html>please log in</html>")
    stored = safetensors.torch.load_file(trunk_file)
    safetensors.torch.save_file({key: value for key, value in stored.items() if "28" not in key}, tmp_path / "short.safetensors")
    before = sorted(home.weights.rglob("*"))
    for name, words in (
        ("unverified.safetensors", "no golden pictures"),
        ("night shift.safetensors", "rename it"),
        ("cut.safetensors", "cut short"),
        ("page.pth", "cannot be read as a state dict"),
        ("short.safetensors", r"features\.28\.weight should be \(512, 512, 3, 3\), it holds nothing"),
        ("missing.pth", "no such file"),
    ):
        with pytest.raises(WeightsError, match=words):
            weights_folder.import_file(home, tmp_path / name)
    assert sorted(home.weights.rglob("*")) == before


def test_any_other_vgg16_is_imported_with_the_words_for_training(home: Home, trunk_file: Path) -> None:
    placed = weights_folder.import_file(home, trunk_file)
    place = home.weights / "pretrained" / trunk_file.name
    trunk = load_trunk(str(trunk_file))
    assert placed == {
        "kind": "pretrained",
        "file": str(place),
        "sha256": hashlib.sha256(trunk_file.read_bytes()).hexdigest(),
        "trunk_sha256": trunk_sha256(trunk),
        "use": f"--pretrained {place}",
    }
    assert trunk_sha256(load_trunk(placed["use"].removeprefix("--pretrained "))) == trunk_sha256(trunk)
    assert [row["name"] for row in weights_folder.contents(home)] == ["bulb.safetensors", "iron.safetensors"]


@needs_torchvision
def test_torchvisions_own_file_is_imported_to_where_imagenet_is_looked_for(home: Home, published: Path) -> None:
    with pytest.raises(WeightsError, match=f"bring it to {pretrained.imagenet_file()}"):
        weights_folder.fetch()
    placed = weights_folder.import_file(home, published)
    assert placed["file"] == str(pretrained.imagenet_file())
    assert placed["use"] == "--pretrained imagenet"
    assert weights_folder.fetch() == placed
    assert trunk_sha256(load_trunk("imagenet")) == placed["trunk_sha256"]


@needs_torchvision
def test_without_torchvision_its_file_is_imported_as_any_other(home: Home, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    place = home.weights / "pretrained" / published.name
    assert weights_folder.import_file(home, published)["use"] == f"--pretrained {place}"
    with pytest.raises(WeightsError, match="make setup"):
        weights_folder.fetch()
