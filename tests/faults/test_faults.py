"""The fault suite as the usual check runs it: the judge is shown to find what it must, and a seeded part of the table happens once.

`make faults` runs all of it, every fault twenty times. FAULTS=all here runs each fault once.
"""

import os
import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from judge import CONTINUOUS, LONGEST_S, PASS_WORD, STILL_S, Judge, Part
from ledger_check import check
from plant import BULB, LINKS, PRODUCTS, SEEDS, NotSeenError, Plant
from table import FAULTS, Fault, table

from drivers.camera import Frame
from drivers.simulated.parts import CLASSES, make_part
from station import inspector, recipe

SEED = 6
PICKED = 4
"""So many faults of each line; the whole table is for `make faults`."""
BULB_GIVEN = (BULB, 0x1234)


def chosen(link: str) -> list[Fault]:
    those = [fault for fault in FAULTS if link in fault.links]
    if os.environ.get("FAULTS") == "all":
        return those
    quick = [fault for fault in those if not fault.restarts and fault.within_s <= 4.0]
    return random.Random(f"{link} {SEED}").sample(quick, PICKED)


@pytest.fixture(scope="module", params=[*LINKS])
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with Plant(tmp_path_factory.mktemp("plant"), request.param, SEED) as plant:
        plant.run(BULB)
        plant.judge.fault = ""
        yield plant


@pytest.mark.parametrize("name", ["frame twice", "noise burst", "trigger repeated", "recordings' folder gone"])
def test_a_fault_that_was_not_injected_is_found_although_the_line_goes_on(line: Plant, name: str) -> None:
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    with pytest.raises(NotSeenError, match="nothing proves that it was injected"):
        replace(fault, act=lambda _line: nullcontext()).happen(line)


@pytest.mark.timeout(1200)
def test_no_fault_lets_a_part_pass_that_was_not_inspected_whole_in_time_and_by_its_recipe(line: Plant) -> None:
    for fault in chosen(line.link):
        assert 0 <= fault.happen(line) <= fault.within_s
        assert line.judge.wrong == []
    line.quiet()
    audit = line.operator("audit")
    line.stop_station()
    assert line.judge.violations == []
    assert check(line.home / "data/ledger.sqlite", line.judge) == []
    assert (audit["missing"], audit["duplicate"], audit["unexplained"]) == (line.jumped, 0, 0), audit["findings"]
    assert sum(bool(part.passed) for part in line.judge.parts) > PICKED


def test_there_are_at_least_forty_faults_in_three_groups_and_every_row_says_what_the_plc_sees() -> None:
    assert len(FAULTS) >= 40
    assert {fault.group for fault in FAULTS} == {"camera", "wire", "host"}
    assert all(fault.injected and fault.seen and fault.within_s > 0 for fault in FAULTS)


def test_the_parts_of_the_suite_are_parts_that_the_networks_know(tmp_path: Path) -> None:
    for name in PRODUCTS.values():
        made = inspector.prepare(recipe.find(REPOSITORY / "recipes", name), REPOSITORY / "weights", tmp_path, "cpu")
        for class_name in CLASSES[name]:
            for seed in SEEDS:
                seen = made.inspect(Frame(np.array(make_part(name, class_name, seed).picture), "RGB8", 0, 0, 0))
                assert seen.class_name == class_name
                assert seen.probability >= 0.95


class Block:
    """The station's registers, as an answer to part 7 by the right recipe; a test changes one of them."""

    def __init__(self) -> None:
        self.judge = Judge()
        self.words = [0] * 24
        self.words[0], self.words[1], self.words[2] = 1, CONTINUOUS, 1
        self.words[5] = self.words[23] = 7
        self.words[6], self.words[7] = PASS_WORD, 1
        self.words[17], self.words[18] = BULB_GIVEN

    def part(self, *, good: bool = True, product: int = BULB, taint: str = "", shown: bool = True) -> Part:
        part = Part(7, "B0000007", good, product, BULB_GIVEN, 100.0, taint=taint, shown=shown)
        self.judge.triggered(part)
        return part


def test_the_judge_passes_a_good_part_that_was_answered_so() -> None:
    block = Block()
    part = block.part()
    assert block.judge.see(block.words, 100.1) is part
    assert (part.passed, block.judge.wrong, block.judge.violations) == (True, [], [])


@pytest.mark.parametrize(("register", "value"), [(0, 2), (6, 0), (6, 0x5AA4), (17, 2), (18, 0x1235), (23, 8)])
def test_the_judge_rejects_what_is_not_this_part_s_pass_to_the_letter(register: int, value: int) -> None:
    block = Block()
    part = block.part()
    block.words[register] = value
    block.judge.see(block.words, 100.1)
    assert not part.passed


def test_the_judge_rejects_what_comes_too_late_or_from_a_station_that_stands_still() -> None:
    late = Block()
    part = late.part()
    assert late.judge.give_up(100.0 + LONGEST_S + 0.01) == [part]
    late.judge.see(late.words, 100.0 + LONGEST_S + 0.02)
    assert part.passed is False
    still = Block()
    still.words[5] = still.words[23] = 0
    still.judge.see(still.words, 100.0)
    part = still.part()
    still.words[5] = still.words[23] = 7
    still.judge.see(still.words, 100.0 + STILL_S + 0.01)
    assert part.passed is False


@pytest.mark.parametrize(
    "truth", [{"good": False}, {"product": 2}, {"taint": "no light"}, {"shown": False}], ids=["defective", "product", "unseen", "nothing"]
)
def test_the_judge_finds_a_pass_that_should_not_be(truth: dict[str, object]) -> None:
    block = Block()
    block.judge.fault = "a fault"
    block.part(**truth)  # type: ignore[arg-type]
    block.judge.see(block.words, 100.1)
    assert len(block.judge.wrong) == 1
    assert block.judge.wrong[0].startswith("a fault: part B0000007 (7) left with PASS: it ")


def test_the_judge_finds_an_answer_that_changes_and_a_pass_that_nobody_asked_for() -> None:
    block = Block()
    block.part()
    block.judge.see(block.words, 100.1)
    block.words[6], block.words[7] = 0, 2
    block.judge.see(block.words, 100.2)
    assert "changed" in block.judge.violations[0]
    nobody = Block()
    nobody.judge.see(nobody.words, 100.1)
    assert "nobody asked for" in nobody.judge.violations[0]


def test_the_judge_bears_another_reject_for_a_part_of_a_job_that_is_over_and_no_other_change() -> None:
    block = Block()
    block.part()
    block.words[6], block.words[7] = 0, 7  # answered before the job began
    block.judge.see(block.words, 100.1)
    block.words[7] = 5
    block.judge.see(block.words, 100.2)
    assert block.judge.violations == []
    block.words[6], block.words[7] = PASS_WORD, 1
    block.judge.see(block.words, 100.3)
    assert "changed" in block.judge.violations[0]


@pytest.mark.parametrize(("state", "beats", "found"), [(CONTINUOUS, True, 1), (CONTINUOUS, False, 0), (3, True, 0)])
def test_the_judge_finds_a_part_without_an_answer_unless_it_saw_that_the_station_did_not_run(state: int, beats: bool, found: int) -> None:
    block = Block()
    block.words[5] = block.words[23] = 0
    block.judge.see(block.words, 100.0)
    block.part()
    block.words[1] = state
    for step in range(1, 31):
        block.words[2] += beats
        block.judge.see(block.words, 100.0 + step / 10)
    block.judge.give_up(103.1)
    assert len(block.judge.unanswered()) == found


def test_a_table_with_anything_wrong_in_it_is_not_fine() -> None:
    line = {"reactions": {FAULTS[0].name: [0.1, 0.3, 0.2]}, "parts": 9, "passed": 4, "starts": 1, "again": 0}
    line |= {name: [] for name in ("failures", "wrong", "violations", "unexplained")}
    line |= {"audit": {"missing": 0, "duplicate": 0, "unexplained": 0, "findings": []}}
    text, fine = table({"ascii": line})
    assert fine
    assert "| 3 | 200 ms | 300 ms |" in text
    for name in ("failures", "wrong", "violations", "unexplained"):
        assert not table({"ascii": line | {name: ["something"]}})[1]
    assert not table({"ascii": line | {"audit": line["audit"] | {"missing": 1}}})[1]
