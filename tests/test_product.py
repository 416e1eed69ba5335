"""`station train` makes a recipe that runs, or says what is wrong before it spends an evening."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from station import recipe
from station.config import Home
from station.recipe import RecipeError
from station.training import product
from station.training.train import Phase, Settings

QUICK = Settings(pretrained="none", width=0.0625, input_size=32, trunks=1, from_scratch=Phase(epochs=12, learning_rate=3e-3, batch=8))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.recipes.mkdir(parents=True)
    return made


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes that nobody can mix up: dark and bright, under names that YAML would like to misread."""
    for name, level in (("yes", 30), ("shell wall, damaged", 220)):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(12):
            picture = np.random.default_rng(number).integers(level - 20, level + 20, (40, 48, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), picture)
    return tmp_path / "pictures"


def train(home: Home, pictures: Path, name: str = "plate", good: tuple[str, ...] = ("yes",)) -> dict[str, object]:
    return product.train_recipe(home, name, pictures, QUICK, good, lambda _: None)


def test_a_new_product_gets_weights_and_a_recipe_that_passes_its_own_self_test(home: Home, pictures: Path) -> None:
    report = train(home, pictures)
    made = recipe.find(home.recipes, "plate")
    assert made.document.network.sha256 == report["sha256"]
    assert (made.number, made.document.good) == (1, ("yes",))
    assert made.document.camera == {"Width": 48, "Height": 40}
    assert {test.class_name for test in made.document.self_test} == {"yes", "shell wall, damaged"}


def test_an_existing_recipe_gets_the_new_hash_and_keeps_every_other_character(home: Home, pictures: Path) -> None:
    train(home, pictures)
    file = home.recipes / "plate" / "recipe.yaml"
    file.write_text("# the night shift's own words\n" + file.read_text().replace("0.9", "0.8"))
    before = recipe.load(file.parent)
    report = product.train_recipe(home, "plate", pictures, Settings(**{**vars(QUICK), "seed": 5}), ("ignored",), lambda _: None)
    after = recipe.load(file.parent)
    assert report["sha256"] != before.document.network.sha256
    assert file.read_text().startswith("# the night shift's own words\n")
    assert after.document.model_copy(update={"network": before.document.network}) == before.document


@pytest.mark.parametrize("name", ["", "Plate", "../plate", "a b"])
def test_a_name_that_is_no_folder_is_refused(home: Home, pictures: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="small letters"):
        train(home, pictures, name)


def test_a_good_class_that_is_not_there_is_refused_before_anything_is_trained(home: Home, pictures: Path) -> None:
    with pytest.raises(RecipeError, match="there are"):
        train(home, pictures, good=("good",))
    assert not home.weights.exists()


def test_a_recipe_that_names_other_weights_is_refused_before_they_are_overwritten(home: Home, pictures: Path) -> None:
    train(home, pictures)
    weights = (home.weights / "plate.safetensors").read_bytes()
    file = home.recipes / "plate" / "recipe.yaml"
    file.write_text(file.read_text().replace("plate.safetensors", "other.safetensors"))
    with pytest.raises(RecipeError, match=r"write plate\.safetensors"):
        train(home, pictures)
    assert (home.weights / "plate.safetensors").read_bytes() == weights
