"""A program changes a recipe.yaml that somebody wrote with care: the values, and not one other character."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from station.document import read
from station.recipe import RecipeDocument, RecipeError
from station.training import recipe_file
from station.training.recipe_file import edit

REPOSITORY = Path(__file__).parent.parent
HASH = "0" * 63 + "e"
HEAD = """\
# the night shift's own words
number:   3        # on the wire
description: "50 x 60: \\"small\\"; with ä and a line that is much longer than what any library would leave as one line of this file"
camera: {Width: 48,
         Height: 40}
network:
    weights: plate.safetensors
    sha256:  '1111111111111111111111111111111111111111111111111111111111111111'  # checked by hand

good: [ good ]
minimum_probability:   0.90   # the customer's
deadline_ms: 2000
"""
TAIL = """\
# both kinds
self_test:
- {image: good.png, class: good}
- image: bad.png
  class: bad
"""
BLOCK = """\
localization:   # how the heat map becomes defects
    method: fixed   # few defects
    sigma:   110    # by eye
    min_area_px: 60

"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def edited(file: Path, text: str, changes: Mapping[str, object]) -> str:
    file.write_bytes(text.encode())
    edit(file, changes)
    assert [*file.parent.iterdir()] == [file]
    return file.read_bytes().decode()


def test_values_are_replaced_where_they_stand(file: Path) -> None:
    text = HEAD + BLOCK + TAIL
    changes = {"network.sha256": HASH, "minimum_probability": 0.995, "deadline_ms": 900, "localization.sigma": 99, "description": "Größe"}
    expected = text.replace(f"'{'1' * 64}'", f'"{HASH}"').replace("0.90", "0.995").replace("2000", "900").replace("110 ", "99 ")
    start, end = expected.index("description: ") + len("description: "), expected.index("\ncamera")
    assert edited(file, text, changes) == f"{expected[:start]}Größe{expected[end:]}"


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        pytest.param(
            "localization: {method: otsu, min_area_px: 60}   # scattered\n",
            {"method": "fixed", "sigma": 120, "min_area_px": 60},
            "localization: {method: fixed, sigma: 120, min_area_px: 60}   # scattered\n",
            id="flow, a key more",
        ),
        pytest.param(
            "localization: { method: fixed,  sigma: 110 , min_area_px: 60 }   # few\n",
            {"method": "otsu", "min_area_px": 60},
            "localization: { method: otsu , min_area_px: 60 }   # few\n",
            id="flow, a key fewer",
        ),
        pytest.param(
            "localization: {sigma: 110,\n  method: fixed}\n",
            {"method": "otsu"},
            "localization: {method: otsu}\n",
            id="flow, the first key goes",
        ),
        pytest.param(
            BLOCK,
            {"method": "otsu", "min_area_px": 60},
            "localization:   # how the heat map becomes defects\n    method: otsu   # few defects\n    min_area_px: 60\n\n",
            id="block, a key fewer",
        ),
        pytest.param(
            "localization:\n  method: otsu   # scattered\n\n",
            {"method": "fixed", "sigma": 16},
            "localization:\n  method: fixed   # scattered\n  sigma: 16\n\n",
            id="block, a key more before a gap",
        ),
        pytest.param(
            "localization:\n  method: otsu\n  min_area_px: 2 # small\n",
            {"method": "fixed", "sigma": 16, "min_area_px": 3},
            "localization:\n  method: fixed\n  sigma: 16\n  min_area_px: 3 # small\n",
            id="block, a key in between",
        ),
        pytest.param(
            "localization:\n  min_area_px: 2\n  method: fixed\n  sigma: 5 # by eye\n",
            {"method": "otsu"},
            "localization:\n  method: otsu\n",
            id="block, the first and the last key go",
        ),
        pytest.param(
            "localization: {method: otsu, sigma: }\n",
            {"method": "fixed", "sigma": 7},
            "localization: {method: fixed, sigma: 7 }\n",
            id="a key without a value",
        ),
    ],
)
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_a_mapping_gets_just_these_keys_in_its_own_style(
    file: Path, before: str, value: dict[str, object], after: str, line_break: str
) -> None:
    text, expected = ((HEAD + middle + TAIL).replace("\n", line_break) for middle in (before, after))
    assert edited(file, text, {"localization": value}) == expected


def test_a_key_that_was_not_there_comes_last(file: Path) -> None:
    text = HEAD.replace("description:", "# description:") + BLOCK + TAIL
    assert edited(file, text, {"description": "On"}) == text + 'description: "On"\n'
    assert edited(file, text.rstrip(), {"description": "On"}) == text + 'description: "On"'


@pytest.mark.parametrize("name", ["bulb", "iron"])
def test_the_demos_recipes_change_in_the_one_line(file: Path, name: str) -> None:
    text = (REPOSITORY / "recipes" / name / "recipe.yaml").read_text(encoding="utf-8")
    old = read(REPOSITORY / "recipes" / name / "recipe.yaml", RecipeDocument)
    after = edited(file, text, {"network.sha256": HASH})
    assert after == text.replace(old.network.sha256, HASH)


def test_a_word_that_yaml_would_misread_is_written_in_quotes(file: Path) -> None:
    for word in ("yes", "null", "2026-11-22", "12", "1e5", "a: b", "# no", "tab\there", "two\nlines", '"quoted"'):
        edited(file, HEAD + BLOCK + TAIL, {"description": word})
        assert read(file, RecipeDocument).description == word


def test_mode_and_link_stay(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere" / "the-recipe.yaml"
    real.parent.mkdir()
    real.write_text(HEAD + BLOCK + TAIL, encoding="utf-8")
    real.chmod(0o640)
    file.symlink_to(real)
    edit(file, {"deadline_ms": 1})
    assert file.is_symlink()
    assert read(real, RecipeDocument).deadline_ms == 1
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"localization.sigma": 999}, r"localization\.sigma: .*255 \(got 999\)"),
        ({"localization": {"method": "otsu", "sigma": 5}}, "sigma stands with method: fixed"),
        ({"minimum_probabilty": 0.5}, "did you mean minimum_probability"),
        ({"netwrk.sha256": HASH}, "netwrk holds no keys"),
        ({"good.first": "good"}, "good holds no keys"),
        ({"self_test": "none"}, "self_test is written over several lines; put it on one line"),
        ({"minimum_probability": 1e-5}, "with a dot and a signed exponent"),
        ({"minimum_probability": None}, "None is no number and no word"),
        ({"deadline_ms": 3, "number": 0}, "number: .* 1 "),
    ],
)
def test_what_would_be_no_recipe_is_refused_and_the_old_file_stands(file: Path, changes: dict[str, object], words: str) -> None:
    text = HEAD + BLOCK + TAIL
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=words) as caught:
        edit(file, changes)
    assert str(caught.value).startswith(f"{file}: {', '.join(changes)}: not changed: ")
    assert ".new" not in str(caught.value)
    assert file.read_text(encoding="utf-8") == text
    assert [*file.parent.iterdir()] == [file]


def test_a_value_that_two_keys_share_is_not_changed_in_both(file: Path) -> None:
    text = (HEAD + BLOCK + TAIL).replace("deadline_ms: 2000", "deadline_ms: *shared").replace("number:   3", "number: &shared 3")
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"deadline_ms: not changed: .*alias"):
        edit(file, {"deadline_ms": 5})
    assert file.read_text(encoding="utf-8") == text


def test_a_file_that_would_say_anything_else_never_takes_the_old_ones_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + BLOCK + TAIL
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(recipe_file, "_word", lambda _: "6")
    with pytest.raises(RecipeError, match="each on a line of its own"):
        edit(file, {"deadline_ms": 5})
    assert file.read_text(encoding="utf-8") == text


def test_a_file_that_is_no_recipe_is_refused(file: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        edit(file, {"deadline_ms": 5})
    file.write_text("number: [")
    with pytest.raises(RecipeError, match="not YAML"):
        edit(file, {"deadline_ms": 5})


@pytest.mark.parametrize("step", ["fsync", "replace", "copymode"])
def test_a_full_disk_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    text = HEAD + BLOCK + TAIL
    file.write_text(text, encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    room = {"fsync": os, "replace": Path, "copymode": shutil}[step]
    monkeypatch.setattr(room, step, full)
    with pytest.raises(RecipeError, match=r"deadline_ms: not changed: .*No space left"):
        edit(file, {"deadline_ms": 5})
    assert file.read_text(encoding="utf-8") == text
    assert [*file.parent.iterdir()] == [file]
