"""`station evaluate`, `tune` and `weights` as scripts call them: the demo's bulbs through the real commands."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, STATION, make_home, station

from drivers.simulated.parts import write_folder
from station.training import recipe_file
from station.vision import weights

EVALUATION_KEYS = {
    "images", "classes", "good", "confusion", "accuracy", "accuracy_low", "precision", "tpr", "fpr", "fnr", "fdr", "f1",
    "escape_upper", "overkill_upper",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's, its bulb network knowing that none of its training pictures lie here: the demo's card is older than such lists."""
    made = make_home(tmp_path_factory.mktemp("home") / "home")
    (made / "weights").unlink()
    shutil.copytree(REPOSITORY / "weights", made / "weights")
    file = made / "weights/bulb.safetensors"
    loaded = weights.load(file)
    sha256 = weights.save(file, loaded.network, {**loaded.card, "split": {"training": []}}, loaded.golden)
    recipe_file.edit(made / "recipes/bulb/recipe.yaml", {"network.sha256": sha256})
    return made


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bulbs a class that no network was trained on, with the masks of their defects."""
    folder = tmp_path_factory.mktemp("parts")
    write_folder(folder, "bulb", 3, 990_001)
    return folder


def said(home: Path, *words: str) -> str:
    """What a command prints for people."""
    return subprocess.run([*STATION, "--home", str(home), *words], capture_output=True, text=True, timeout=100, check=False).stdout


def test_evaluate_says_what_scripts_rely_on(home: Path, parts: Path) -> None:
    document = station(home, "evaluate", "bulb", str(parts))
    assert document.keys() >= EVALUATION_KEYS
    assert (document["images"], document["good"]) == (12, ["good"])
    assert sum(map(sum, document["confusion"])) == 12
    assert document["accuracy"] > 0.8
    assert document["fnr"] < document["escape_upper"] < 1


def test_evaluate_writes_a_page_and_prints_the_same_numbers(home: Path, parts: Path, tmp_path: Path) -> None:
    page = tmp_path / "bulb.html"
    printed = said(home, "evaluate", "bulb", str(parts), "--html", str(page))
    accuracy = re.search(r"accuracy (\d+\.\d\d %) of 12", printed)
    assert accuracy
    assert accuracy[1] in page.read_text(encoding="utf-8")


def test_evaluate_refuses_a_class_the_network_does_not_know(home: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "parts", "bulb", 1, 990_001)
    (tmp_path / "parts" / "images" / "stain").rename(tmp_path / "parts" / "images" / "stains")
    message: Any = station(home, "evaluate", "bulb", str(tmp_path / "parts"), code=2)
    assert "did you mean stain?" in message


def test_tune_refuses_a_bound_that_nine_defective_parts_cannot_carry(home: Path, parts: Path) -> None:
    before = (home / "recipes/bulb/recipe.yaml").read_bytes()
    document = station(home, "tune", "bulb", str(parts), "--write", code=1)
    assert any("299" in reason for reason in document["refused"])
    assert (home / "recipes/bulb/recipe.yaml").read_bytes() == before
    assert "refused" in said(home, "tune", "bulb", str(parts))


def test_tune_chooses_a_limit_for_a_bound_that_they_can(home: Path, parts: Path) -> None:
    document = station(home, "tune", "bulb", str(parts), "--escape", "0.4", code=None)
    assert document["minimum_probability"]["chosen"]["escape_upper"] <= 0.4


def test_tune_refuses_weights_that_do_not_know_what_they_were_trained_on(home: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "parts", "iron", 1, 990_001)
    assert "do not say" in station(home, "tune", "iron", str(tmp_path / "parts"), code=2)


def test_weights_are_listed_and_verified_on_this_machine(home: Path) -> None:
    rows = station(home, "weights", "list")
    assert {row["name"]: row["recipes"] for row in rows} == {"bulb.safetensors": ["bulb"], "iron.safetensors": ["iron"]}
    assert all(row["ok"] for row in station(home, "weights", "verify"))
    assert "bulb.safetensors" in said(home, "weights", "list")
    assert "differ by at most" in said(home, "weights", "verify")


def test_a_file_that_is_no_network_is_not_imported(home: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no network")
    assert "notes.txt" in station(home, "weights", "import", str(tmp_path / "notes.txt"), code=2)


def test_the_simulated_line_runs_a_recipe_that_station_yaml_does_not_name(home: Path) -> None:
    document = station(home, "run", "--recipe", "iron", "--pictures", "iron", "--parts", "6")
    assert (document["parts"], document["audit"]["ok"], document["plc"]["violations"]) == (6, True, [])
    assert set(document["plc"]["classes"]) <= {"good", "crack"}
