"""station.yaml and recipe.yaml: every mistake is named with file, line, key, value and what to write, and nothing is guessed."""

from pathlib import Path

import pytest

from station import config, recipe
from station.config import Home
from station.document import DocumentError
from station.recipe import RecipeError

STATION = """\
name: line-1
camera:
  producers: [simulated]
  serial_number: SIM-MQ042
plc:
  link: modbus-rtu
  port: /dev/serial/by-id/usb-adapter
"""
RECIPE = """\
number: 3
camera:
  PixelFormat: BayerGB8
  ExposureTime: 5000.0
network:
  weights: bulb.safetensors
  sha256: "0000000000000000000000000000000000000000000000000000000000000000"
good: [good]
minimum_probability: 0.9
deadline_ms: 1000
localization: {method: fixed, sigma: 128}
self_test:
  - {image: good.png, class: good}
  - {image: bad.png, class: crack}
"""


def station(tmp_path: Path, text: str) -> config.StationConfig:
    (tmp_path / "station.yaml").write_text(text)
    return config.load(Home(tmp_path))


def product(tmp_path: Path, text: str = RECIPE, name: str = "bulb") -> recipe.Recipe:
    folder = tmp_path / "recipes" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(text)
    (folder / "good.png").write_bytes(b"good")
    (folder / "bad.png").write_bytes(b"bad")
    return recipe.load(folder)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(DocumentError) as refused:
        station(tmp_path, text)
    return str(refused.value)


def test_what_is_not_said_has_its_default(tmp_path: Path) -> None:
    read = station(tmp_path, STATION)
    assert (read.plc.baudrate, read.plc.parity, read.plc.unit, read.resume) == (None, None, 1, "command")


def test_the_station_yaml_of_the_repository_is_a_whole_simulated_line() -> None:
    read = config.load(Home(Path.cwd()))
    assert read.plc.port == config.SIMULATED
    assert config.SIMULATED in read.camera.producers


def test_an_unknown_key_is_an_error_that_names_its_place_and_the_near_key(tmp_path: Path) -> None:
    said = refusal(tmp_path, STATION + "  baudrat: 9600\n")
    assert "station.yaml:8:12: plc.baudrat: unknown key; did you mean baudrate?" in said


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    said = refusal(tmp_path, STATION + "  unit: 300\n  timeout_ms: soon\n")
    assert "plc.unit" in said
    assert "(got 300)" in said
    assert "plc.timeout_ms" in said
    assert "(got 'soon')" in said


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert "plc.port: is missing" in refusal(tmp_path, STATION.replace("  port: /dev/serial/by-id/usb-adapter\n", ""))


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("TriggerMode: On", 'write "On" in quotes'),
        ("Gain: 1e-5", "write it with a dot"),
        ("Delay: 12:30", "decimal number"),
        ("Mask: 010", "decimal number"),
        ("Mask: 1:30.5", "decimal number"),
        ("Gain: .inf", "decimal number"),
        ("Day: 2026-11-22", "in quotes"),
    ],
)
def test_what_yaml_would_misread_is_refused_with_what_to_write(tmp_path: Path, written: str, advice: str) -> None:
    with pytest.raises(RecipeError, match=advice):
        product(tmp_path, RECIPE.replace("ExposureTime: 5000.0", written))


def test_a_file_with_a_control_character_is_refused(tmp_path: Path) -> None:
    assert "not YAML" in refusal(tmp_path, STATION + "\x07")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "name: stands twice" in refusal(tmp_path, STATION + "name: line-2\n")


def test_broken_yaml_is_an_error_with_its_line(tmp_path: Path) -> None:
    assert "station.yaml:9:1: not YAML" in refusal(tmp_path, STATION + "  unit: [1, 2\n")


@pytest.mark.parametrize("text", ["", "- a list\n", "just words\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    assert "expected keys and values" in refusal(tmp_path, text)


def test_a_home_without_station_yaml_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="--home or STATION_HOME"):
        config.load(Home(tmp_path))


def test_a_simulated_plc_needs_something_to_make(tmp_path: Path) -> None:
    assert "add the section simulation" in refusal(tmp_path, STATION.replace("/dev/serial/by-id/usb-adapter", "simulated"))


def test_a_recipe_has_number_features_and_a_hash(tmp_path: Path) -> None:
    read = product(tmp_path)
    assert read.number == 3
    assert read.document.camera == {"PixelFormat": "BayerGB8", "ExposureTime": 5000.0}
    assert len(read.hash) == 64


def test_the_hash_changes_with_any_value_and_with_any_self_test_picture(tmp_path: Path) -> None:
    first = product(tmp_path)
    limit = product(tmp_path, RECIPE.replace("0.9", "0.91"))
    (first.folder / "good.png").write_bytes(b"another picture")
    (first.folder / "recipe.yaml").write_text(RECIPE)
    assert len({first.hash, limit.hash, recipe.load(first.folder).hash}) == 3


def test_the_hash_does_not_change_with_a_comment(tmp_path: Path) -> None:
    assert product(tmp_path).hash == product(tmp_path, "# seen by the night shift\n" + RECIPE).hash


def test_the_checksum_on_the_wire_is_modbus_crc_over_the_hash_s_characters(tmp_path: Path) -> None:
    read = product(tmp_path)
    crc = 0xFFFF
    for character in read.hash.encode():
        crc ^= character
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    assert read.checksum == crc


def test_how_parts_are_triggered_is_not_the_recipe_s_to_say(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="TriggerMode"):
        product(tmp_path, RECIPE.replace("ExposureTime: 5000.0", 'TriggerMode: "Off"'))


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("localization: {method: fixed, sigma: 128}", "localization: {method: fixed}"),
        ("localization: {method: fixed, sigma: 128}", "localization: {method: otsu, sigma: 128}"),
        ("class: crack", "class: good"),
        ("minimum_probability: 0.9", "minimum_probability: 1.5"),
        ("number: 3", "number: 0"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(tmp_path: Path, written: str, instead: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+:\d+"):
        product(tmp_path, RECIPE.replace(written, instead))


def test_a_missing_self_test_picture_is_refused_by_name(tmp_path: Path) -> None:
    folder = product(tmp_path).folder
    (folder / "bad.png").unlink()
    with pytest.raises(RecipeError, match=r"bad\.png"):
        recipe.load(folder)


def test_a_recipe_is_found_by_name_and_by_number(tmp_path: Path) -> None:
    product(tmp_path)
    recipes = tmp_path / "recipes"
    assert recipe.find(recipes, "bulb").hash == recipe.find(recipes, 3).hash == recipe.find(recipes, "3").hash


def test_two_recipes_with_one_number_are_refused(tmp_path: Path) -> None:
    product(tmp_path)
    product(tmp_path, name="bulb-2")
    with pytest.raises(RecipeError, match="also that of bulb"):
        recipe.find(tmp_path / "recipes", 3)


def test_an_unknown_recipe_is_refused_with_those_there_are(tmp_path: Path) -> None:
    product(tmp_path)
    with pytest.raises(RecipeError, match="there are: bulb"):
        recipe.find(tmp_path / "recipes", "bulp")
    with pytest.raises(RecipeError, match="no recipe has number 9"):
        recipe.find(tmp_path / "recipes", 9)
