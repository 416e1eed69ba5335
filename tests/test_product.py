"""`station train` makes a recipe that runs, or says what is wrong before it spends an evening; and it never leaves half of a pair."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from drivers.camera import CameraError, Feature
from station import inspector, recipe
from station.config import Home
from station.recipe import RecipeError
from station.training import product, recipe_file
from station.training.dataset import Dataset, DatasetError, read_pictures
from station.training.golden import golden
from station.training.train import Goal, Phase, Settings
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.parity import reference
from station.vision.preprocess import preprocess

SETTINGS = Settings(
    pretrained="none",
    width=1 / 16,
    input_size=32,
    trunks=1,
    from_scratch=Phase(epochs=12, learning_rate=3e-3, batch=8, at_once=8),
    device="cpu",
)
DAMAGED = "shell wall, damaged"  # with what YAML would like to misread
REFUSED = (RecipeError, DatasetError, CameraError)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write(tmp_path / "pictures", {"yes": 30, DAMAGED: 220})


def write(folder: Path, levels: Mapping[str, int]) -> Path:
    """Classes that nobody can mix up: each of its own grey."""
    for label, (name, level) in enumerate(levels.items()):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            picture = np.random.default_rng(100 * label + number).integers(level - 20, level + 20, (40, 48, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f"{number}.png"), picture)
    return folder


class Training:
    """In place of the real one: a network of random convolutions whose last layer is solved for, right about every picture.

    Attributes:
        wrong: it takes every class for another.
        self_test: what the report says.
        leads: else it is one of the processes that only help.
        during: called in the middle of it.
    """

    def __init__(self) -> None:
        self.wrong = False
        self.self_test: dict[str, str] = {}
        self.leads = True
        self.seed = 0
        self.during: Callable[[], None] = lambda: None
        self.trained: list[Dataset] = []
        self.work: Path | None = None

    def __call__(
        self, dataset: Dataset, output: Path, settings: Settings, goal: Goal, work: Path, progress: Callable[[str], None]
    ) -> dict[str, object] | None:
        self.trained.append(dataset)
        self.goal = goal
        if not self.leads:
            return None
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        progress("epoch 1 of 1")
        (work / "checkpoint").write_text("so far")
        output.write_text("not whole yet")
        self.during()
        torch.manual_seed(self.seed)
        network = BilinearDVGG16(NetworkDescription(dataset.classes, settings.width, settings.input_size, trunks=1)).eval()
        seen = list(read_pictures(dataset.samples))
        self._solve(network, seen)
        engine = reference(weights.LoadedWeights(network, network.description, {}, ""), "cpu")
        taught = [(pixels, form, self._taught(label, dataset)) for pixels, form, label in seen]
        sha256 = weights.save(output, network, {}, golden(engine, taught))
        return {"weights": str(output), "sha256": sha256, "images": len(dataset.samples), "self_test": self.self_test}

    def _taught(self, label: int, dataset: Dataset) -> int:
        return (label + 1) % len(dataset.classes) if self.wrong else label

    def _solve(self, network: BilinearDVGG16, seen: list[tuple[Any, str, int]]) -> None:
        inputs: list[torch.Tensor] = []
        hook = network.classifier.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        with torch.no_grad():
            network.logits(torch.cat([preprocess(pixels, form, network.description) for pixels, form, _ in seen]))
            hook.remove()
            labels = torch.tensor([self._taught(label, self.trained[-1]) for _, _, label in seen])
            wanted = 20 * torch.nn.functional.one_hot(labels, len(network.description.classes)).float()
            network.classifier.weight.copy_((torch.linalg.pinv(inputs[0]) @ wanted).T)
            network.classifier.bias.zero_()


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    fake = Training()
    monkeypatch.setattr(product, "train", fake)
    return fake


def no_camera(width: int, height: int, _colour: bool) -> Mapping[str, Feature]:
    return {"Width": width, "Height": height}


def absent(_width: int, _height: int, _colour: bool) -> Mapping[str, Feature]:
    raise CameraError("no camera")


def train(
    home: Home,
    pictures: Path,
    name: str = "plate",
    good: tuple[str, ...] | None = ("yes",),
    camera: product.SuggestFeatures = no_camera,
    progress: Callable[[str], None] = lambda _: None,
) -> Any:
    return product.train_recipe(home, name, pictures, SETTINGS, good, camera, progress)


def retrain(home: Home, pictures: Path, training: Training) -> Any:
    """To another network."""
    training.seed += 1
    return train(home, pictures)


def runs(home: Home, name: str = "plate") -> recipe.Recipe:
    """The recipe with its weights, as the station takes it."""
    return inspector.prepare(recipe.find(home.recipes, name), home.weights, home.engines, "cpu").recipe


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pair(home: Home) -> dict[str, bytes]:
    """All that the station reads."""
    return {**files(home.recipes), **files(home.weights)}


# --- a new product


def test_a_new_product_gets_weights_and_a_recipe_that_passes_its_own_self_test(home: Home, pictures: Path, training: Training) -> None:
    report = train(home, pictures)
    made = runs(home)
    assert made.document.network.sha256 == report["sha256"]
    assert report["weights"] == str(home.weights / made.document.network.weights)
    assert (report["recipe"], report["images"], report["warnings"]) == ("plate", 16, [])
    assert (made.number, made.document.good) == (1, ("yes",))
    assert {test.class_name for test in made.document.self_test} == {"yes", DAMAGED}
    assert training.work == home.folder / "data/training/plate"
    assert (training.work / "checkpoint").is_file()
    assert not (home.folder / "data/training/plate.new").exists()


def test_the_whole_way_with_a_real_training(home: Home, pictures: Path) -> None:
    lines: list[str] = []
    report = train(home, pictures, progress=lines.append)
    assert runs(home).document.network.sha256 == report["sha256"]
    assert any("epoch" in line for line in lines)
    assert [entry.name for entry in (home.folder / "data/training/plate").iterdir()] == ["curves"]  # no checkpoint stays


@pytest.mark.parametrize("place", ["data/training/plate", "data/training", "data/training/plate/pictures"])
@pytest.mark.usefixtures("training")
def test_pictures_do_not_lie_where_the_training_keeps_its_own_files(home: Home, pictures: Path, place: str) -> None:
    there = home.folder / place
    there.parent.mkdir(parents=True, exist_ok=True)
    pictures.rename(there)
    with pytest.raises(DatasetError, match="put the pictures elsewhere"):
        train(home, there)


@pytest.mark.usefixtures("training")
def test_a_second_product_gets_the_next_number_and_weights_of_its_own(home: Home, pictures: Path) -> None:
    train(home, pictures)
    train(home, pictures, "disc")
    assert runs(home, "disc").number == 2
    assert runs(home).number == 1
    assert len(list(home.weights.iterdir())) == 2


def test_the_training_knows_what_the_network_is_for(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    assert training.trained[0].classes == ("yes", DAMAGED)
    assert training.goal == Goal(("yes",), 0.9)
    recipe_file.edit(home.recipes / "plate" / "recipe.yaml", {"minimum_probability": 0.8})
    train(home, pictures)
    assert training.goal == Goal(("yes",), 0.8)


def test_a_process_that_only_helps_writes_nothing_and_asks_no_camera(
    home: Home, pictures: Path, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    training.leads = False
    lines: list[str] = []
    assert train(home, pictures, camera=absent, progress=lines.append) is None
    assert len(training.trained) == 1
    assert not lines
    assert not home.folder.exists()


@pytest.mark.usefixtures("training")
@pytest.mark.parametrize("name", ["good", "OK", "Good"])
def test_without_a_word_the_classes_called_good_or_ok_are_good(home: Home, tmp_path: Path, name: str) -> None:
    train(home, write(tmp_path / "pictures", {name: 30, "dent": 220}), good=None)
    assert runs(home).document.good == (name,)


@pytest.mark.usefixtures("training")
def test_a_product_without_a_good_class_passes_nothing_and_says_so_loudly(home: Home, tmp_path: Path) -> None:
    lines: list[str] = []
    report = train(home, write(tmp_path / "pictures", {"crack": 30, "dent": 220}), good=None, progress=lines.append)
    assert runs(home).document.good == ()
    (warning,) = report["warnings"]
    assert "passes NOTHING" in warning
    assert "--good CLASS" in warning
    assert lines[0] == f"warning: {warning}"


@pytest.mark.usefixtures("training")
def test_what_is_odd_about_the_pictures_is_said_before_the_training_and_in_the_report(home: Home, pictures: Path) -> None:
    shutil.copy(pictures / "yes" / "0.png", pictures / "yes" / "copy.png")
    lines: list[str] = []
    report = train(home, pictures, progress=lines.append)
    (warning,) = report["warnings"]
    assert "copy.png" in warning
    assert lines[:2] == [f"warning: {warning}", "epoch 1 of 1"]


@pytest.mark.usefixtures("training")
def test_the_camera_says_what_a_new_recipe_asks_of_it(home: Home, pictures: Path) -> None:
    features: dict[str, Feature] = {
        "PixelFormat": "BayerRG8",
        "Width": 48,
        "OffsetX": 600,
        "ReverseX": False,
        "GainAuto": "Off",
        "ExposureTime": 1e-5,
    }
    asked: list[tuple[int, int]] = []

    def camera(width: int, height: int, _colour: bool) -> Mapping[str, Feature]:
        asked.append((width, height))
        return features

    train(home, pictures, camera=camera)
    made = runs(home).document.camera
    assert asked == [(48, 40)]
    assert list(made.items()) == list(features.items())


def test_the_self_test_has_the_pictures_that_the_training_chose(home: Home, pictures: Path, training: Training) -> None:
    training.self_test = {"yes": str(pictures / "yes" / "5.png")}
    train(home, pictures)
    images = {test.class_name: (home.recipes / "plate" / test.image).read_bytes() for test in runs(home).document.self_test}
    assert images == {"yes": (pictures / "yes/5.png").read_bytes(), DAMAGED: (pictures / DAMAGED / "0.png").read_bytes()}
    assert len(list((home.recipes / "plate").iterdir())) == 3


def test_class_names_that_yaml_would_misread_stay_words(home: Home, tmp_path: Path, training: Training) -> None:
    names = ("no", "1e5", "2026-01-01", "löten 🔥", "a: b")
    train(home, write(tmp_path / "pictures", {name: 30 + 40 * label for label, name in enumerate(names)}), good=("no", "no", "1e5"))
    made = runs(home).document
    assert "löten 🔥" in (home.recipes / "plate" / "recipe.yaml").read_text()
    assert made.good == training.goal.good == ("no", "1e5")
    assert {test.class_name for test in made.self_test} == set(names)


# --- an existing recipe


def test_an_existing_recipe_gets_the_new_network_and_keeps_its_words(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    file = home.recipes / "plate" / "recipe.yaml"
    file.write_text("# the night shift's own words\n" + file.read_text().replace("0.9", "0.8"))
    before = runs(home)
    report = retrain(home, pictures, training)
    after = runs(home)
    assert after.document.network.sha256 == report["sha256"] != before.document.network.sha256
    assert report["weights"] == str(home.weights / after.document.network.weights)
    assert file.read_text().startswith("# the night shift's own words\n")
    assert after.document.model_copy(update={"network": before.document.network}) == before.document


def test_what_is_edited_while_the_network_is_trained_is_kept(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    folder = home.recipes / "plate"

    def edit() -> None:
        recipe_file.edit(folder / "recipe.yaml", {"minimum_probability": 0.7})
        shutil.copy(pictures / "yes" / "4.png", folder / "another.png")
        with (folder / "recipe.yaml").open("a") as file:
            file.write('  - {image: another.png, class: "yes"}\n')

    training.during = edit
    report = retrain(home, pictures, training)
    made = runs(home).document
    assert (made.minimum_probability, made.network.sha256) == (0.7, report["sha256"])
    assert made.self_test[-1].image == "another.png"


def test_a_recipe_that_is_broken_while_the_network_is_trained_costs_no_training(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    training.during = (home.recipes / "plate" / "recipe.yaml").unlink
    with pytest.raises(RecipeError, match=r"(?s)recipe\.yaml: .*the new network .* in .*plate\.new"):
        train(home, pictures)
    assert (home.folder / "data/training/plate.new/trained.safetensors").is_file()


def test_the_weights_before_stay_so_that_the_old_recipe_still_runs(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    before = pair(home)
    retrain(home, pictures, training)
    (home.recipes / "plate" / "recipe.yaml").write_bytes(before["plate/recipe.yaml"])
    runs(home)


def test_weights_of_another_name_and_place_are_not_touched(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    (home.weights / runs(home).document.network.weights).rename(home.weights / "old.safetensors")
    recipe_file.edit(home.recipes / "plate" / "recipe.yaml", {"network.weights": "old.safetensors"})
    before = (home.weights / "old.safetensors").read_bytes()
    retrain(home, pictures, training)
    assert runs(home).document.network.weights != "old.safetensors"
    assert (home.weights / "old.safetensors").read_bytes() == before


def test_a_recipe_whose_weights_are_lost_gets_new_ones(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    shutil.rmtree(home.weights)
    retrain(home, pictures, training)
    runs(home)


@pytest.mark.usefixtures("training")
def test_the_camera_is_not_asked_for_an_existing_recipe(home: Home, pictures: Path) -> None:
    train(home, pictures)
    train(home, pictures, camera=absent)
    runs(home)


# --- refused before anything is trained


def refused(home: Home, pictures: Path, training: Training, words: str, **more: Any) -> None:
    """Says `words`, before a training and with everything as it was."""
    before, trainings = pair(home), len(training.trained)
    with pytest.raises(REFUSED, match=words):
        train(home, pictures, **more)
    assert len(training.trained) == trainings
    assert pair(home) == before


@pytest.mark.parametrize("name", ["", "1", "Plate", "../plate", "a b", "plate.new"])
def test_a_name_that_is_no_folder_is_refused(home: Home, pictures: Path, training: Training, name: str) -> None:
    refused(home, pictures, training, "small letters", name=name)


def test_a_good_class_that_is_not_there_is_refused_with_the_nearest(home: Home, pictures: Path, training: Training) -> None:
    refused(home, pictures, training, "good: Yes: .*did you mean yes", good=("Yes",))


def test_a_product_without_a_defect_is_refused(home: Home, pictures: Path, training: Training) -> None:
    refused(home, pictures, training, "no defect to find", good=("yes", DAMAGED))


def test_pictures_that_cannot_be_read_are_refused(home: Home, pictures: Path, training: Training) -> None:
    (pictures / "yes" / "3.png").write_bytes(b"")
    refused(home, pictures, training, r"3\.png")


def test_features_that_no_recipe_may_have_are_refused(home: Home, pictures: Path, training: Training) -> None:
    refused(home, pictures, training, "TriggerMode", camera=lambda _w, _h, _c: {"TriggerMode": "On"})


def test_a_recipe_that_cannot_be_read_is_refused(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    with (home.recipes / "plate" / "recipe.yaml").open("a") as file:
        file.write("nonsense: 1\n")
    refused(home, pictures, training, "nonsense")


def test_a_recipe_that_cannot_be_replaced_is_refused(
    home: Home, pictures: Path, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(home, pictures)
    monkeypatch.setattr(product.os, "access", lambda folder, _mode: folder != home.recipes / "plate")  # root may write anywhere
    refused(home, pictures, training, "cannot be written to")


def test_another_good_class_than_the_recipes_is_refused(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    refused(home, pictures, training, "good: is yes; edit it there", good=(DAMAGED,))


def test_a_label_typo_is_refused_with_both_spellings(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    (pictures / DAMAGED).rename(pictures / "shell wall damaged")
    refused(home, pictures, training, f"(?s)class shell wall damaged is unknown to .*did you mean {DAMAGED}.*has no class {DAMAGED}")


def test_a_new_class_is_refused_until_the_recipe_tests_it(home: Home, pictures: Path, training: Training) -> None:
    train(home, pictures)
    write(pictures, {"stain": 128})
    refused(home, pictures, training, "class stain is unknown .* needs a picture of it under self_test", good=None)
    folder = home.recipes / "plate"
    shutil.copy(pictures / "stain" / "0.png", folder / "stain.png")
    with (folder / "recipe.yaml").open("a") as file:
        file.write("  - {image: stain.png, class: stain}\n")
    retrain(home, pictures, training)
    assert [test.class_name for test in runs(home).document.self_test][-1] == "stain"


def test_a_class_that_only_the_network_knows_is_missed_in_the_pictures(home: Home, pictures: Path, training: Training) -> None:
    write(pictures, {"stain": 128})
    train(home, pictures)
    file = home.recipes / "plate" / "recipe.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if "stain" not in line))
    shutil.rmtree(pictures / "stain")
    refused(home, pictures, training, "has no class stain")


# --- nothing half-written


class Killed(BaseException):
    """Like a Ctrl-C."""


@pytest.mark.parametrize("error", [Killed(), RuntimeError("out of memory")])
@pytest.mark.parametrize("exists", [False, True])
def test_a_training_that_ends_early_changes_nothing(
    home: Home, pictures: Path, training: Training, error: BaseException, exists: bool
) -> None:
    if exists:
        train(home, pictures)
    before = pair(home)

    def stop() -> None:
        raise error

    training.during = stop
    with pytest.raises(type(error)):
        train(home, pictures)
    assert pair(home) == before
    assert (home.folder / "data/training/plate/checkpoint").is_file()
    training.during = lambda: None
    retrain(home, pictures, training)
    runs(home)


@pytest.mark.parametrize("exists", [False, True])
def test_a_network_that_fails_the_self_test_changes_nothing_and_can_be_looked_at(
    home: Home, pictures: Path, training: Training, exists: bool
) -> None:
    if exists:
        train(home, pictures)
    before = pair(home)
    training.wrong = True
    with pytest.raises(RecipeError, match="keeps its old weights" if exists else "was not written") as failed:
        train(home, pictures)
    assert "self_test: 0-yes.png should be yes" in str(failed.value)
    assert pair(home) == before
    draft = home.folder / "data/training/plate.new"
    assert str(failed.value).endswith(f" {draft}")
    left = recipe.load(draft / "plate")
    assert weights.load(draft / left.document.network.weights).sha256 == left.document.network.sha256


@pytest.mark.parametrize("exists", [False, True])
def test_at_every_step_of_the_installation_the_recipe_runs_or_is_not_there(
    home: Home, pictures: Path, training: Training, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """Power fails after the first, the second ... file that was put in its place, until the training gets through."""
    if exists:
        train(home, pictures)
    write_whole, edit = weights.write_whole, recipe_file.edit
    for steps in range(10):
        left = steps

        def cut(do: Callable[..., None], target: Path, *values: Any) -> None:
            nonlocal left
            if home.folder / "data" in target.parents:
                return do(target, *values)
            if not left:
                raise Killed
            left -= 1
            return do(target, *values)

        monkeypatch.setattr(weights, "write_whole", lambda target, *values: cut(write_whole, target, *values))
        monkeypatch.setattr(recipe_file, "edit", lambda target, *values: cut(edit, target, *values))
        try:
            retrain(home, pictures, training)
        except Killed:
            known, unreadable = recipe.load_all(home.recipes)
            assert not unreadable
            assert exists == ("plate" in known)
            if exists:
                runs(home)
        else:
            break
    assert steps == (2 if exists else 4)
    runs(home)


@pytest.mark.usefixtures("training")
def test_a_place_that_cannot_be_written_to_is_named_with_where_the_network_is(home: Home, pictures: Path) -> None:
    home.folder.mkdir(parents=True)
    home.weights.write_text("a file where a folder should be")
    with pytest.raises(RecipeError, match=r"(?s)home.weights.*was not written; the new network .*plate\.new"):
        train(home, pictures)
    assert not home.recipes.exists()
