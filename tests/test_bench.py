"""The benchmarks' arithmetic, imports and output. Nothing here is asserted of a real clock."""

import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import make_home
from torch import nn

from station import config, recipe
from station.bench import engines, floor, line, network, report
from station.bench.floor import Peak, macs
from station.bench.report import Shown
from station.bench.stopwatch import Stopwatch, Timed
from station.bench.timing import distribution_ms, interleaved, per_second, ratio, repeated
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import EngineError

SLIM = NetworkDescription(("good", "crack", "stain"), width=1 / 16, input_size=64)
CONTRACT = {"device", "engine", "precision", "frame_ms", "frames_per_s", "peers", "floor_ms", "parity"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


class Hand:
    """A clock that is moved by hand, and work that moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], None]:
        left = deque(seconds)

        def move() -> None:
            self.now += left.popleft()

        return move


# ---- timing


def test_contenders_take_turns() -> None:
    said: list[str] = []
    contenders = [(name, lambda name=name: said.append(name)) for name in "ABC"]
    times = interleaved(contenders, 2, Hand())
    assert "".join(said) == "ABC" * 2
    assert {name: len(seconds) for name, seconds in times.items()} == {"A": 2, "B": 2, "C": 2}


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    hand = Hand()
    times = interleaved([("slow", hand.work(2, 40, 6)), ("fast", hand.work(1, 10, 2))], 3, hand)
    assert times == {"slow": [2, 40, 6], "fast": [1, 10, 2]}
    assert ratio(times, "slow", "fast") == 3  # of 2, 4 and 3: the round in which all was slow decides nothing


def test_percentiles_are_times_that_occurred() -> None:
    assert distribution_ms(second / 1e3 for second in range(1, 1001)) == pytest.approx({"p50": 500, "p99": 990, "p999": 999})
    assert distribution_ms([0.25]) == pytest.approx({"p50": 250, "p99": 250, "p999": 250})


def test_throughput_counts_frames_back_to_back() -> None:
    hand = Hand()
    assert per_second(repeated(hand.work(0.25, 0.5, 0.25), 3, hand)) == 3


def test_a_timed_object_is_the_real_one_on_a_stopwatch() -> None:
    now = iter([0, 3_000_000, 10_000_000, 11_000_000])
    watch = Stopwatch(lambda: next(now))
    timed = Timed([3, 1, 2], watch, {"sort": "sorting", "index": "looking"})
    timed.sort()
    assert timed.index(2) == 1
    assert timed.count(3) == 1, "what is not named takes no time"
    assert watch.ended_ns["looking"] == 11_000_000
    assert watch.spent_ms() == {"sorting": 3.0, "looking": 1.0}
    assert watch.spent_ms() == {}


def test_what_fails_is_timed_too() -> None:
    now = iter([0, 2_000_000])
    watch = Stopwatch(lambda: next(now))
    with pytest.raises(ValueError, match="not in list"):
        Timed([], watch, {"index": "looking"}).index(2)
    assert watch.spent_ms() == {"looking": 2.0}


# ---- the floor


def test_the_papers_network_is_245_thousand_million_in_its_trunks() -> None:
    whole = macs(NetworkDescription(("good", "bad")))
    assert whole.trunks / 1e9 == pytest.approx(245.5, abs=0.1)
    assert whole.head < 0.003 * whole.total
    assert macs(NetworkDescription(("good", "bad"), trunks=1)).trunks * 4 == whole.trunks


@pytest.mark.parametrize("trunks", [1, 4])
def test_the_count_is_a_literal_one_by_hooks(trunks: int) -> None:
    description = replace(SLIM, trunks=trunks)
    made = BilinearDVGG16(description).eval()
    counted = {"trunks": 0, "head": 0}

    def count(module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            each = module.weight[0].numel()
            counted["trunks" if module.kernel_size == (3, 3) else "head"] += output.numel() * each
        elif isinstance(module, nn.Linear):
            counted["head"] += module.weight.numel()

    for module in made.modules():
        module.register_forward_hook(count)
    with torch.inference_mode():
        made(torch.zeros(1, 3, 64, 64))
    channels, positions = made.channels, 16
    counted["head"] += channels * channels * positions  # Eq. 2-3
    counted["head"] += channels * channels + channels * positions  # Eq. 4, Eq. 5
    assert (macs(description).trunks, macs(description).head) == (counted["trunks"], counted["head"])


def test_the_floor_is_the_work_over_the_peak() -> None:
    assert Peak(2e9, {}).floor_ms(floor.Macs(3_000_000_000, 1_000_000_000)) == 2000


def test_the_peak_is_the_best_of_the_product_and_the_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "_convolutions", lambda _: [(3, 8, 32), (8, 8, 32), (8, 16, 16), (16, 16, 16), (16, 16, 16)])
    monkeypatch.setitem(floor._PRODUCT, "cpu", 32)
    hand = Hand()
    steps = cycle([0, 4, 4, 4, 6, 9])

    def clock() -> float:  # warm-up, until, and one try each
        hand.now += next(steps)
        return hand.now

    found = floor.peak(torch.device("cpu"), torch.float32, 1.0, clock)
    assert list(found.measured) == ["product 32 x 32", "3x3 8 -> 8 at 32 x 32", "3x3 8 -> 16 at 16 x 16", "3x3 16 -> 16 at 16 x 16"]
    assert found.macs_per_s == max(found.measured.values())
    assert found.measured["product 32 x 32"] == 32**3 / 6


# ---- the network's command


def a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, description: NetworkDescription = SLIM) -> dict[str, Any]:
    monkeypatch.setattr(engines, "ENGINES", [engine for engine in engines.ENGINES if engine.name == "torch-cpu-fp32"])
    monkeypatch.setattr(floor, "peak", lambda *_: Peak(1e9, {"product": 1e9}))
    monkeypatch.setattr(network, "PEERS", [(name, peer) for name, peer in network.PEERS if name != "grad-cam package"])
    monkeypatch.setattr(network, "CAMERAS", {"96 x 80 BayerRG8": ((80, 96), "BayerRG8"), "64 x 64 Mono8": ((64, 64), "Mono8")})
    return network.measure(network.untrained(description, tmp_path), "cpu", "fp32", 2, "a slim network")


def test_the_document_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(json.dumps(a_document(tmp_path, monkeypatch)))
    assert document.keys() >= CONTRACT
    assert set(document["frame_ms"]) == {"p50", "p99", "p999"}
    assert document["engine"] == "torch-cpu-fp32"
    assert set(document["peers"]) == {"literal hooks", "autograd through the head"}
    assert all(set(peer) == {"p50", "ratio"} for peer in document["peers"].values())
    assert document["floor_ms"] == pytest.approx(macs(SLIM).total / 1e6, rel=1e-3)
    assert all(near["probability"] < 1e-5 and near["heat_map"] > 0.999 for near in document["parity"].values())
    assert set(document["cameras"]) == {"96 x 80 BayerRG8", "64 x 64 Mono8"}


def test_the_text_says_ratios_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = report.network_lines(a_document(tmp_path, monkeypatch)).splitlines()
    assert "a slim network" in said[0]
    assert said[1].startswith("ratios")
    assert "times faster than literal hooks" in said[2]
    assert next(number for number, text in enumerate(said) if "class scores alone" in text) < said.index("milliseconds a frame:")
    assert "untrained" in said[-1]


def test_a_peer_that_is_missing_is_said_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_network: BilinearDVGG16) -> network.Look:
        raise network.PeerMissingError("not here: pip install station[bench]")

    document = a_document(tmp_path, monkeypatch)
    monkeypatch.setattr(network, "PEERS", [("grad-cam package", missing)])
    again = network.measure(network.untrained(SLIM, tmp_path), "cpu", "fp32", 1, "a slim network")
    assert document["missing"] == {}
    assert again["missing"] == {"grad-cam package": "not here: pip install station[bench]"}
    assert "pip install station[bench]" in report.network_lines(again)


def test_the_same_untrained_network_comes_every_time(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert network.untrained(SLIM, tmp_path).read_bytes() == network.untrained(SLIM, tmp_path / "again").read_bytes()


def test_the_asked_engine_comes_first_and_fp32_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["torch-cpu-fp32", "openvino-cpu-fp32", "openvino-cpu-int8", "torch-cuda-fp16", "torch-cuda-fp32"]
    made = [replace(engine, needs=()) for engine in engines.ENGINES if engine.name in names]
    monkeypatch.setattr(engines, "ENGINES", made)
    assert [engine.name for engine in engines.contending("cpu", "int8")] == [names[2], names[0], names[1]]
    assert [engine.name for engine in engines.contending("cpu", "fp32")] == names[:2]
    assert [engine.name for engine in engines.contending("cuda", "fp16")] == names[3:]


def test_an_engine_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ENGINES", [replace(engine, needs=("no_such_module",)) for engine in engines.ENGINES])
    with pytest.raises(EngineError, match=r"int8 on cpu .* pip install station\[openvino\]"):
        engines.contending("cpu", "int8")


def test_wrong_words_are_refused_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert network.main(["--device", "cpu", "--size", "100"]) == 2
    assert "input_size: 100" in capsys.readouterr().err


def test_heat_maps_are_compared_up_to_scale_offset_and_size() -> None:
    p = np.array([0.25, 0.75], dtype=np.float32)
    coarse = np.random.default_rng(0).random((4, 4), dtype=np.float32)
    fine = np.asarray(cv2.resize(coarse, (16, 16)), dtype=np.float32)
    near = network._parity((p, coarse), (p[::-1], 3 * fine + 1))
    assert near["probability"] == 0.5
    assert near["heat_map"] == pytest.approx(1)
    assert network._parity((p, coarse), (p, np.zeros((4, 4), np.float32)))["heat_map"] == 0


@pytest.mark.parametrize("module", ["station.bench.network", "station.bench.peers", "station.bench.report"])
def test_it_can_be_carried_to_a_bare_machine(module: str) -> None:
    unwanted = ["harvesters", "genicam", "serial", "pymodbus", "structlog", "yaml", "pydantic", "mcap", "drivers", "openvino"]
    code = f"import sys, {module}; print([name for name in {unwanted!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == "[]"


# ---- the report


def test_what_was_wanted_is_said_beside_what_was_reached() -> None:
    shown = [Shown("times faster than A", 3.5, at_least=3.0), Shown("B", 30.0, "ms", at_most=25.0), Shown("C", 1.0)]
    assert [one.reached for one in shown] == [True, False, None]
    good, bad, neutral = report.shown_lines(one.document() for one in shown)
    assert re.search(r"3\.500 x +times faster than A +wanted at least 3: reached$", good)
    assert re.search(r"30\.000 ms +B +wanted at most 25: MISSED$", bad)
    assert neutral.endswith(" C")


# ---- the line


def test_the_growth_of_memory_is_its_slope() -> None:
    assert line.slope_mb_per_1000([100 + 0.002 * part for part in range(50)]) == pytest.approx(2)
    assert line.slope_mb_per_1000([100.0]) == 0


def test_the_whole_line_is_measured_stage_by_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = config.Home(make_home(tmp_path / "home"))
    monkeypatch.setattr(line, "SENSORS", [sensor for sensor in line.SENSORS if sensor.serial == "SIM-MER131"])
    monkeypatch.setattr(line, "LOOKS", 2)
    document = json.loads(json.dumps(line.measure(home, config.load(home), recipe.find(home.recipes, "bulb"), 3)))
    (sensor,) = document["sensors"].values()
    stages = sensor["stages_ms"]
    assert sensor["parts"] == 3
    assert sensor["not_trunk_ms"] == pytest.approx(sum(stages[stage] for stage in line.NOT_TRUNK), abs=0.01)
    assert min(stages.values()) > 0
    assert stages["inspection"] < stages["whole turn: trigger heard to PLC told"]
    assert stages["camera: end of exposure to frame in hand"] < stages["camera: fired to frame in hand, exposure and simulation included"]
    assert document["engine"] == "torch-cpu-fp32"
    assert "wanted at most 10" in report.line_lines(document)
    assert not list((home.folder / "data").glob("bench-*")), "nothing is left behind"


def test_the_library_that_runs_the_line_is_the_one_that_is_measured() -> None:
    pytest.importorskip("openvino")
    assert [engine.name for engine in engines.contending("cpu", "fp32", "openvino")] == ["openvino-cpu-fp32", "torch-cpu-fp32"]
    assert [engine.name for engine in engines.contending("cpu", "fp32", "torch")] == ["torch-cpu-fp32", "openvino-cpu-fp32"]
    assert engines.contending("cpu", "int8", "openvino")[0].name == "openvino-cpu-int8"
