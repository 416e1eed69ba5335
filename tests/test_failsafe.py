"""The Gate says PASS only when nothing speaks against it, and nobody else says it at all."""

import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from drivers.camera import Frame
from station.failsafe import Gate, Part
from station.inspection import Inspection, Reason, Verdict
from station.recipe import LocalizationDocument, NetworkDocument, Recipe, RecipeDocument, SelfTestDocument
from station.state import State

CAPTURED_NS = 1_000_000_000
NOW_NS = CAPTURED_NS + 50_000_000
DEADLINE_MS = 100
SOURCES = [*Path("station").rglob("*.py"), *Path("drivers").rglob("*.py")]

RECIPE = Recipe(
    "bulb",
    Path("recipes/bulb"),
    RecipeDocument(
        number=7,
        camera={},
        network=NetworkDocument(weights="bulb.safetensors", sha256="0" * 64),
        good=("good",),
        minimum_probability=0.9,
        deadline_ms=DEADLINE_MS,
        localization=LocalizationDocument(method="otsu"),
        self_test=(
            SelfTestDocument.model_validate({"image": "good.png", "class": "good"}),
            SelfTestDocument.model_validate({"image": "bad.png", "class": "break"}),
        ),
    ),
    "a" * 64,
)
FRAME = Frame(np.zeros((4, 4), np.uint8), "Mono8", 12, 0, CAPTURED_NS)
SEEN = Inspection(12, CAPTURED_NS, RECIPE.hash, {"good": 0.95, "break": 0.05}, "good", 0, 0.95, (), np.zeros((4, 4), np.uint8))
PART = Part(1, 42, "A42", CAPTURED_NS - 1_000_000, 7, RECIPE.hash, RECIPE, FRAME, SEEN, is_simulated=True)


def judge(part: Part = PART, state: State = State.CONTINUOUS_EXECUTION, now_ns: int = NOW_NS) -> tuple[Verdict, Reason]:
    result = Gate().judge(part, state, now_ns)
    return result.verdict, result.reason


def test_a_good_part_passes() -> None:
    assert judge() == (Verdict.PASS, Reason.GOOD)


def test_a_part_passes_in_single_execution_too() -> None:
    assert judge(state=State.SINGLE_EXECUTION) == (Verdict.PASS, Reason.GOOD)


def test_a_part_passes_when_no_plc_ever_asked_for_a_recipe() -> None:
    assert judge(replace(PART, asked_recipe=0)) == (Verdict.PASS, Reason.GOOD)


@pytest.mark.parametrize("state", sorted(set(State) - {State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION}))
def test_a_part_fails_in_every_state_that_does_not_execute(state: State) -> None:
    assert judge(state=state) == (Verdict.FAIL, Reason.NOT_RUNNING)


def test_a_part_fails_when_no_recipe_is_prepared() -> None:
    assert judge(replace(PART, recipe=None)) == (Verdict.FAIL, Reason.NOT_RUNNING)


def test_a_part_fails_when_the_plc_asked_for_another_recipe() -> None:
    assert judge(replace(PART, asked_recipe=8)) == (Verdict.FAIL, Reason.WRONG_RECIPE)


def test_a_part_fails_while_the_plc_still_waits_for_the_recipe_it_asked_for() -> None:
    assert judge(replace(PART, asked_hash="")) == (Verdict.FAIL, Reason.WRONG_RECIPE)


def test_a_part_fails_when_the_recipe_was_changed_after_the_plc_was_given_it() -> None:
    assert judge(replace(PART, asked_hash="c" * 64)) == (Verdict.FAIL, Reason.WRONG_RECIPE)


def test_a_part_without_a_frame_fails() -> None:
    assert judge(replace(PART, frame=None, inspection=None)) == (Verdict.FAIL, Reason.MISSED_FRAME)


def test_a_part_without_a_frame_fails_even_when_an_inspection_is_there() -> None:
    assert judge(replace(PART, frame=None)) == (Verdict.FAIL, Reason.MISSED_FRAME)


def test_a_frame_with_a_flaw_fails_even_when_an_inspection_is_there() -> None:
    assert judge(replace(PART, frame=replace(FRAME, flaw="frozen"))) == (Verdict.FAIL, Reason.MISSED_FRAME)


def test_a_part_whose_inspection_failed_fails() -> None:
    assert judge(replace(PART, inspection=None)) == (Verdict.FAIL, Reason.INSPECTION_ERROR)


def test_the_inspection_of_another_frame_fails() -> None:
    assert judge(replace(PART, inspection=replace(SEEN, frame_id=11))) == (Verdict.FAIL, Reason.INSPECTION_ERROR)


def test_the_inspection_of_a_frame_with_the_same_id_from_before_a_reconnect_fails() -> None:
    assert judge(replace(PART, inspection=replace(SEEN, captured_ns=CAPTURED_NS - 1))) == (Verdict.FAIL, Reason.INSPECTION_ERROR)


def test_the_inspection_by_another_recipe_fails() -> None:
    assert judge(replace(PART, inspection=replace(SEEN, recipe_hash="b" * 64))) == (Verdict.FAIL, Reason.WRONG_RECIPE)


def test_a_part_judged_at_its_deadline_passes_and_a_nanosecond_later_fails() -> None:
    deadline_ns = CAPTURED_NS + DEADLINE_MS * 1_000_000
    assert judge(now_ns=deadline_ns) == (Verdict.PASS, Reason.GOOD)
    assert judge(now_ns=deadline_ns + 1) == (Verdict.FAIL, Reason.LATE)


def test_a_frame_from_the_future_fails() -> None:
    assert judge(now_ns=CAPTURED_NS - 1) == (Verdict.FAIL, Reason.LATE)


def test_a_defective_part_fails() -> None:
    assert judge(replace(PART, inspection=replace(SEEN, class_name="break", class_index=1))) == (Verdict.FAIL, Reason.DEFECT)


def test_a_class_that_nobody_named_fails() -> None:
    assert judge(replace(PART, inspection=replace(SEEN, class_name=""))) == (Verdict.FAIL, Reason.DEFECT)


@pytest.mark.parametrize("probability", [0.0, 0.8999, float("nan"), float("inf"), 1.0001])
def test_a_part_that_is_not_surely_good_fails(probability: float) -> None:
    assert judge(replace(PART, inspection=replace(SEEN, probability=probability))) == (Verdict.FAIL, Reason.UNCERTAIN)


@pytest.mark.parametrize("probability", [0.9, 1.0])
def test_a_part_at_either_end_of_what_is_sure_passes(probability: float) -> None:
    assert judge(replace(PART, inspection=replace(SEEN, probability=probability))) == (Verdict.PASS, Reason.GOOD)


def test_the_result_names_what_judged_and_what_was_asked_for() -> None:
    result = Gate().judge(PART, State.CONTINUOUS_EXECUTION, NOW_NS)
    assert (result.sequence, result.part_id, result.recipe_number, result.recipe_hash, result.asked_recipe) == (42, "A42", 7, "a" * 64, 7)
    assert result.inspection is SEEN
    assert result.elapsed_ms == pytest.approx(51.0)


def _says_pass(tree: ast.AST) -> list[str]:
    """The functions in which a PASS could come into being: naming Verdict.PASS outside a comparison, or making a Verdict from data."""
    found = []
    compared = {id(side) for node in ast.walk(tree) if isinstance(node, ast.Compare) for side in (node.left, *node.comparators)}
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        for node in ast.walk(function):
            named = isinstance(node, ast.Attribute) and node.attr == "PASS" and id(node) not in compared
            made = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Verdict")
            indexed = isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Verdict")
            if named or made or indexed:
                found.append(function.name)
    return found


def test_pass_is_constructed_in_one_function_only() -> None:
    places = {(str(path), name) for path in SOURCES for name in _says_pass(ast.parse(path.read_text()))}
    assert places == {("station/failsafe.py", "judge")}


def test_only_the_line_turns_a_verdict_into_the_wire_s_bool() -> None:
    makers = {
        str(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("PlcResult")
    }
    assert makers == {"drivers/plc.py", "station/line.py"}, "drivers/plc.py makes NO_RESULT, station/line.py all others"


SOURCE = Path("station/failsafe.py").read_text()
CONDITIONS = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.If)]


def mutants() -> list[tuple[str, str]]:
    """The Gate with one condition taken out, or one half of a condition: what is missing, and the source without it."""
    found = []
    for number, condition in enumerate(CONDITIONS):
        tree = ast.parse(SOURCE)
        target = [node for node in ast.walk(tree) if isinstance(node, ast.If)][number]
        target.test = ast.Constant(value=False)
        found.append((ast.unparse(condition.test), ast.unparse(tree)))
        if isinstance(condition.test, ast.BoolOp):
            for half in range(len(condition.test.values)):
                tree = ast.parse(SOURCE)
                target = [node for node in ast.walk(tree) if isinstance(node, ast.If)][number]
                assert isinstance(target.test, ast.BoolOp)
                found.append((ast.unparse(target.test.values.pop(half)), ast.unparse(tree)))
    return found


def fails(test: Callable[..., None]) -> bool:
    """Runs a test of this file, with each of its parameters; True when it fails."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    try:
        for value in marks[0].args[1] if marks else [()]:
            test(*(() if not marks else (value,)))
    except Exception:  # noqa: BLE001 - a mutant may fail in any way
        return True
    return False


@pytest.mark.parametrize(("missing", "source"), mutants(), ids=[missing for missing, _ in mutants()])
def test_no_condition_of_the_gate_can_go_unnoticed(missing: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mutant")
    monkeypatch.setitem(sys.modules, "mutant", module)
    exec(compile(source, "mutant", "exec"), module.__dict__)
    monkeypatch.setitem(globals(), "Gate", module.Gate)
    other = ("gate", "constructed", "wire")
    own = [test for name, test in globals().items() if name.startswith("test_") and not any(word in name for word in other)]
    assert any(fails(test) for test in own), f"without `{missing}` no test fails"


def test_the_gate_has_all_its_conditions() -> None:
    assert len(CONDITIONS) == 8
