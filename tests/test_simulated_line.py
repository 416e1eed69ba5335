"""The simulated line as a whole: its pictures, the truth about them, and the PLC in a process of its own with the real link in between."""

import contextlib
import itertools
import json
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import cv2
import numpy as np
import pytest

from drivers.modbus_rtu import ModbusRtuPlc
from drivers.plc import NO_RESULT, Command, CommandStatus, PlcError, PlcInput, PlcResult, StationSignals
from drivers.simulated import conveyor
from drivers.simulated.conveyor import Image, PictureConveyor, folder_pictures, synthetic_pictures
from drivers.simulated.line import BatchSpec, LineError, LineSpec, SimulatedLine, pictures
from drivers.simulated.parts import CLASSES, Part

CHECKSUMS = {1: 0x1111, 2: 0x2222}
REPOSITORY = Path(__file__).parents[1]


# Pictures and truth.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures in three classes; every picture has a grey value of its own."""
    for grey, (class_name, name) in enumerate(itertools.product(("ok", "scratch", "stain"), ("a.png", "b.png"))):
        (tmp_path / "data" / class_name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "data" / class_name / name), np.full((8, 10), 40 * grey, np.uint8))
    return tmp_path / "data"


def test_a_sorted_folder_comes_in_order_over_and_over(folder: Path) -> None:
    pictures = list(itertools.islice(folder_pictures(folder, ["ok"], None), 12))
    assert [picture.name for picture in pictures[:6]] == [
        "ok/a.png",
        "ok/b.png",
        "scratch/a.png",
        "scratch/b.png",
        "stain/a.png",
        "stain/b.png",
    ]
    assert [picture.name for picture in pictures[:6]] == [picture.name for picture in pictures[6:]]
    assert [picture.good for picture in pictures[:3]] == [True, True, False]
    assert [int(picture.image[0, 0]) for picture in pictures[:6]] == [0, 40, 80, 120, 160, 200]


def test_a_shuffled_folder_is_the_seeds_order_and_holds_every_picture_each_round(folder: Path) -> None:
    orders = [[picture.name for picture in itertools.islice(folder_pictures(folder, ["ok"], seed), 12)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:6]) == sorted(orders[0][6:]) == sorted(set(orders[0]))


def test_a_colour_picture_comes_as_rgb(tmp_path: Path) -> None:
    (tmp_path / "ok").mkdir()
    cv2.imwrite(str(tmp_path / "ok" / "red.png"), np.full((4, 4, 3), (10, 20, 250), np.uint8))
    assert next(folder_pictures(tmp_path, ["ok"], None)).image[0, 0].tolist() == [250, 20, 10]


def test_a_folder_without_the_good_class_says_what_it_holds(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no class good .* ok, scratch, stain"):
        next(folder_pictures(folder, ["good"], None))


def test_made_parts_are_the_seeds() -> None:
    product = sorted(CLASSES)[0]
    made = [[(p.name, p.image.tobytes()) for p in itertools.islice(synthetic_pictures(product, 0.5, seed), 4)] for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert not set(made[0]) & set(made[2])


def test_made_parts_are_as_often_defective_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    blank = Part("bulb", "", np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.bool_))

    def make_blank(_product: str, class_name: str, _seed: int) -> Part:
        asked.append(class_name)
        return blank

    monkeypatch.setattr(conveyor, "make_part", make_blank)
    made = list(itertools.islice(synthetic_pictures("bulb", 0.25, 1), 2000))
    assert asked == [picture.class_name for picture in made]
    assert set(asked) == set(CLASSES["bulb"])
    assert all(picture.good == (picture.class_name == CLASSES["bulb"][0]) for picture in made)
    assert 0.2 < sum(not picture.good for picture in made) / len(made) < 0.3


def present(belt: PictureConveyor) -> str:
    until_s = time.monotonic() + 10
    while (part_id := belt.present(0)) is None:
        assert time.monotonic() < until_s
    return part_id


def test_the_truth_counts_escapes_and_overkill(folder: Path) -> None:
    shown: list[Image] = []
    belt = PictureConveyor([folder_pictures(folder, ["ok"], None)], shown.append)
    ids = [present(belt) for _ in range(6)]
    for part_id, good in zip(ids, [True, False, True, False, False, False], strict=True):
        belt.sort(part_id, good)
    belt.close()
    assert [int(image[0, 0]) for image in shown] == [0, 40, 80, 120, 160, 200]
    assert all(len(part_id) <= 16 for part_id in ids)
    assert belt.truth.overkill == [ids[1]]
    assert belt.truth.escapes == [ids[2]]
    assert belt.truth.classes == {
        "ok": {"passed": 1, "rejected": 1},
        "scratch": {"passed": 1, "rejected": 1},
        "stain": {"passed": 0, "rejected": 2},
    }


# The whole line, with the real link in between.


class SmallStation:
    """The least that is a station: obeys, and judges what `look` says, over the real link."""

    def __init__(self, port: Path, look: Callable[[], bool]) -> None:
        self.plc = ModbusRtuPlc(str(port), simulated=True)
        self._look = look
        self._signals = StationSignals(5, 0, 0, 0, NO_RESULT, 0, CommandStatus.IDLE, 0, 0)
        self._answered: int | None = None

    def turn(self) -> None:
        now = self._signals
        said = self.plc.exchange(now)
        state, recipe = self._obey(said) if said.command.sequence != now.command_echo else (now.state, now.recipe_number)
        result = now.result
        trigger = said.triggers[-1]
        if self._answered is None:
            self._answered = trigger.sequence
        if state == 8 and trigger.sequence != self._answered:
            self._answered = trigger.sequence
            passed = self._look()
            result = PlcResult(trigger.sequence, passed, 1 if passed else 2, 0, 1.0, 0, 0, (0, 0, 0, 0), 3, recipe, CHECKSUMS[recipe])
        status = CommandStatus.DONE if said.command.code else CommandStatus.IDLE
        checksum = CHECKSUMS.get(recipe, 0)
        self._signals = StationSignals(state, now.heartbeat + 1, recipe, checksum, result, said.command.sequence, status, 0, 0)

    def _obey(self, said: PlcInput) -> tuple[int, int]:
        state, recipe = self._signals.state, self._signals.recipe_number
        if said.command.code == Command.PREPARE_RECIPE:
            return max(state, 6), said.command.argument
        return {Command.START_CONTINUOUS: 8, Command.STOP: 6}.get(Command(said.command.code), state), recipe


def line_spec(tmp_path: Path, folder: Path, *batches: tuple[int, int]) -> LineSpec:
    return LineSpec(
        port=tmp_path / "plc",
        directory=tmp_path / "scene",
        serial="SIM-MER131",
        batches=tuple(BatchSpec(recipe, str(folder), parts, good=("ok",)) for recipe, parts in batches),
        deadline_ms=1000,
        part_timeout_s=2.0,
        interval_s=0.0,
        shuffle=False,
    )


def test_a_batch_is_made_parts_or_a_folder_sorted_or_shuffled(tmp_path: Path, folder: Path) -> None:
    spec = line_spec(tmp_path, folder, (1, 1))
    names = [picture.name for picture in itertools.islice(pictures(spec.batches[0], spec), 6)]
    shuffled = [picture.name for picture in itertools.islice(pictures(spec.batches[0], replace(spec, shuffle=True)), 6)]
    made = next(pictures(replace(spec.batches[0], pictures=sorted(CLASSES)[0]), replace(spec, defective=0.0)))
    assert names == sorted(shuffled) != shuffled
    assert (made.class_name, made.good) == (CLASSES[sorted(CLASSES)[0]][0], True)


def scene_grey(spec: LineSpec) -> int:
    """The grey value of the picture before the camera, as its scene file ends with it."""
    return (spec.directory / f"{spec.serial}.scene").read_bytes()[-1]


def test_a_line_in_its_own_process_runs_a_station_over_the_real_link(tmp_path: Path, folder: Path) -> None:
    spec = line_spec(tmp_path, folder, (1, 12), (2, 6))
    line = SimulatedLine(spec)
    try:
        station = SmallStation(line.port, lambda: scene_grey(spec) in (0, 40, 80))
        until_s = time.monotonic() + 30
        while not line.counts()["finished"]:
            assert time.monotonic() < until_s
            for _ in range(20):
                station.turn()
        counts = line.finish(1.0)
        station.plc.close()
    finally:
        line.close()
    assert counts["violations"] == []
    assert (counts["triggers"], counts["answered"], counts["acknowledged"]) == (18, 18, 18)
    assert counts["recipes"] == {"1": 12, "2": 6}
    assert counts["classes"] == {
        "ok": {"passed": 6, "rejected": 0},
        "scratch": {"passed": 3, "rejected": 3},
        "stain": {"passed": 0, "rejected": 6},
    }
    assert (len(counts["escapes"]), counts["overkill"]) == (3, [])
    assert 0 < counts["latency_ms"]["p50"] <= counts["latency_ms"]["p99"] <= counts["latency_ms"]["max"]
    assert json.loads(json.dumps(counts)) == counts
    assert not spec.port.is_symlink()


def test_a_line_that_cannot_run_says_why(tmp_path: Path) -> None:
    line = SimulatedLine(line_spec(tmp_path, tmp_path / "nowhere", (1, 1)))
    try:
        with pytest.raises(LineError, match="nowhere"):
            _ = line.port
    finally:
        line.close()


@pytest.fixture
def alone(tmp_path: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The line as a program of its own, with a batch that does not end."""
    options = ["--port", str(tmp_path / "plc"), "--directory", str(tmp_path), "--serial", "SIM-MER131", "--interval", "0"]
    options += ["--part-timeout", "0.3", "--deadline-ms", "100", "--batch", f"1:{folder}:100000", "--good", "ok"]
    command = [sys.executable, "-m", "drivers.simulated", "line", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert process.stderr is not None
    assert str(tmp_path / "plc") in process.stderr.readline()
    yield process
    process.kill()
    process.communicate()


def run_station(port: str, answered: "Synchronized[int]") -> None:
    """A station that passes every part, in a process of its own, until it is killed."""

    def look() -> bool:
        answered.value += 1
        return True

    station = SmallStation(Path(port), look)
    while True:
        with contextlib.suppress(PlcError):
            station.turn()


def test_a_line_of_its_own_outlives_killed_stations_and_tells_its_counts_on_sigterm(tmp_path: Path, alone: subprocess.Popen[str]) -> None:
    spawn = multiprocessing.get_context("spawn")
    for _ in range(2):
        answered = spawn.Value("i", 0)
        station = spawn.Process(target=run_station, args=(str(tmp_path / "plc"), answered))
        station.start()
        until_s = time.monotonic() + 20
        while answered.value < 10:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        station.kill()
        station.join()
    alone.send_signal(signal.SIGTERM)
    printed, _ = alone.communicate(timeout=10)
    counts = json.loads(printed)
    assert alone.returncode == 0
    assert (counts["violations"], counts["recoveries"], counts["finished"]) == ([], 1, False)
    assert counts["answered"] == counts["passed"] >= 18  # each station that is killed may take one along
    assert counts["rejected"] == counts["timeouts"] <= 3


def test_a_batch_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "drivers.simulated", "line", "--port", str(tmp_path / "p"), "--directory", str(tmp_path)]
    done = subprocess.run(
        [*command, "--serial", "SIM-MER131", "--batch", "bulb"], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 2
    assert "write RECIPE:PICTURES:PARTS" in done.stderr


def test_the_judge_shares_no_line_with_the_judged() -> None:
    script = "import json, sys, drivers.simulated.line; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    modules = set(json.loads(done.stdout))
    assert "drivers.simulated.judge" in modules
    assert not {"station", "pymodbus", "serial", "drivers.plc", "drivers.modbus_rtu"} & modules
