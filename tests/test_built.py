"""Engines other than fp32 on torch: built in a process of their own, compared, kept, and never trusted across a change."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from station.vision import built, weights
from station.vision.built import ready
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import EngineError
from station.vision.parity import reference
from station.vision.weights import Golden, LoadedWeights, WeightsError

pytest.importorskip("openvino", reason="the optional extra openvino is not installed")
from station.vision import openvino_cpu

DESCRIPTION = NetworkDescription(("good", "crack"), width=1 / 16, input_size=64)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


SELF_TEST = [(picture(1), "RGB8"), (picture(2), "RGB8")]


def network_file(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    network = BilinearDVGG16(DESCRIPTION)
    network.classifier.bias.data[0] = 3.0  # sure enough that int8 says the same class of the golden picture
    seen = reference(LoadedWeights(network, DESCRIPTION, {}, ""), "cpu").see(picture(0), "RGB8")
    weights.save(path, network, {}, [Golden(picture(0), seen.probabilities)])
    return path


@pytest.fixture(scope="module")
def built_once(tmp_path_factory) -> Path:
    """A home's folder with a network and all engines of it that there can be on a CPU."""
    home = tmp_path_factory.mktemp("home")
    file = weights.read(network_file(home / "w.safetensors"))
    ready(file, "auto", "cpu", home / "engines", SELF_TEST, lambda _: True)
    return home


@pytest.fixture
def home(built_once, tmp_path, monkeypatch) -> Path:
    """A copy of it, in which nothing may be built."""
    monkeypatch.setattr(built, "_build_apart", _refused)
    return Path(shutil.copytree(built_once, tmp_path / "home"))


class _BuildingError(Exception):
    """Something would be built."""


def _refused(*_arguments, **_keywords):
    raise _BuildingError


def prepared(home: Path, wanted: built.Wanted = "auto", passes=lambda _: True, self_test=SELF_TEST):
    return ready(weights.read(home / "w.safetensors"), wanted, "cpu", home / "engines", self_test, passes)


def rewrite(home: Path, name: str, **values) -> None:
    """Plants other findings about an engine that was built."""
    for file in home.glob("engines/*/engine.json"):
        document = json.loads(file.read_text())
        if document["name"] == name:
            file.write_text(json.dumps(document | values))
            return
    raise AssertionError(f"no {name}")


AGREES = [{"fp32": [0.9, 0.1], "engine": [0.9, 0.1], "heat_map": 1.0}]
DIFFERS = [{"fp32": [0.9, 0.1], "engine": [0.8, 0.2], "heat_map": 1.0}]


def test_every_engine_of_the_processor_is_built_and_compared_on_golden_and_self_test_pictures(built_once):
    found = {document["name"]: document for document in (json.loads(file.read_text()) for file in built_once.glob("engines/*/engine.json"))}
    assert set(found) == {"openvino-cpu-fp32", "openvino-cpu-int8"}
    fp32 = reference(weights.load(built_once / "w.safetensors"), "cpu")
    expected = [fp32.see(pixels, "RGB8").probabilities for pixels in (picture(0), picture(1), picture(2))]
    for document in found.values():
        assert np.allclose([one["fp32"] for one in document["pairs"]], expected, atol=1e-6)
        assert document["frame_ms"] > 0
        assert document["fp32_ms"] > 0


def test_openvino_in_fp32_is_the_same_network(home):
    for name in ("openvino-cpu-fp32", "openvino-cpu-int8"):
        rewrite(home, name, pairs=AGREES, frame_ms=1.0 if "fp32" in name else 5.0, fp32_ms=10.0)
    openvino, torch_cpu = prepared(home).engine, prepared(home, "fp32").engine
    assert (openvino.name, torch_cpu.name) == ("openvino-cpu-fp32", "torch-cpu-fp32")
    frame = np.random.default_rng(5).integers(0, 256, (90, 70), dtype=np.uint8)
    now, was = openvino.see(frame, "BayerRG8"), torch_cpu.see(frame, "BayerRG8")
    assert np.allclose(now.probabilities, was.probabilities, atol=1e-5)
    assert np.abs(now.heat_map.astype(int) - was.heat_map).max() <= 1
    again = openvino.see(frame, "BayerRG8")
    assert again.probabilities.tobytes() == now.probabilities.tobytes()
    assert again.heat_map.tobytes() == now.heat_map.tobytes()


def test_what_an_engine_gave_belongs_to_the_caller(home):
    rewrite(home, "openvino-cpu-fp32", pairs=AGREES, frame_ms=1.0, fp32_ms=10.0)
    rewrite(home, "openvino-cpu-int8", pairs=DIFFERS)
    engine = prepared(home).engine
    first = engine.see(picture(7), "RGB8").probabilities
    before = first.copy()
    engine.see(picture(8), "RGB8")
    assert (first == before).all()


def test_auto_takes_the_fastest_that_passes(home):
    rewrite(home, "openvino-cpu-int8", pairs=AGREES, frame_ms=1.0, fp32_ms=10.0)
    rewrite(home, "openvino-cpu-fp32", pairs=AGREES, frame_ms=2.0, fp32_ms=10.0)
    chosen = prepared(home)
    assert chosen.engine.name == "openvino-cpu-int8"
    assert {one.name: one.refused for one in chosen.considered} == {"openvino-cpu-fp32": "", "openvino-cpu-int8": ""}
    rewrite(home, "openvino-cpu-int8", pairs=DIFFERS)
    assert prepared(home).engine.name == "openvino-cpu-fp32"
    rewrite(home, "openvino-cpu-fp32", frame_ms=11.0)
    assert prepared(home).engine.name == "torch-cpu-fp32"


def test_a_precision_that_does_not_pass_is_refused_with_its_numbers(home):
    rewrite(home, "openvino-cpu-int8", pairs=DIFFERS)
    with pytest.raises(
        EngineError, match=r"precision: int8: openvino-cpu-int8 does not say what fp32 says.* within 0\.1000.*write fp32 or auto"
    ):
        prepared(home, "int8")


def test_the_recipe_s_limit_decides_what_the_same_verdict_is(home):
    close = [{"fp32": [0.902, 0.098], "engine": [0.899, 0.101], "heat_map": 1.0}]
    rewrite(home, "openvino-cpu-int8", pairs=close)
    assert prepared(home, "int8", lambda p: p[0] >= 0.8).engine.name == "openvino-cpu-int8"
    with pytest.raises(EngineError, match="0 of 1 verdicts the same"):
        prepared(home, "int8", lambda p: p[0] >= 0.9)


def test_what_was_built_is_used_again(home):
    prepared(home)


@pytest.mark.parametrize("change", ["weights", "self-test", "model", "engine.json", "version", "processor", "code"])
def test_a_change_of_anything_it_depends_on_builds_it_anew(home, monkeypatch, change):
    self_test = SELF_TEST
    if change == "weights":
        network_file(home / "w.safetensors", seed=1)
    elif change == "self-test":
        self_test = [(picture(1), "RGB8"), (picture(3), "RGB8")]
    elif change == "model":
        for model in home.glob("engines/*/network.bin"):
            data = bytearray(model.read_bytes())
            data[len(data) // 2] ^= 1
            model.write_bytes(data)
    elif change == "engine.json":
        for file in home.glob("engines/*/engine.json"):
            file.write_text(file.read_text()[:-9])
    elif change == "version":
        monkeypatch.setattr(built, "version", lambda name: f"{name} 99")
    elif change == "processor":
        monkeypatch.setattr(built.os, "cpu_count", lambda: 99)
    else:
        monkeypatch.setattr(built, "__file__", __file__)
    with pytest.raises(_BuildingError):
        prepared(home, self_test=self_test)


def test_a_precision_that_needs_another_device_is_refused(home):
    with pytest.raises(EngineError, match=r"precision: fp16 does not run on cpu here; write fp32 or auto"):
        prepared(home, "fp16")


def test_without_openvino_int8_is_refused_and_auto_is_fp32(home, monkeypatch):
    monkeypatch.setattr(built, "find_spec", lambda name: None if name == "openvino" else name)
    assert prepared(home).engine.name == "torch-cpu-fp32"
    with pytest.raises(EngineError, match=r"int8 does not run on cpu here.*station\[openvino\]"):
        prepared(home, "int8")


def test_fp32_builds_nothing(tmp_path):
    network_file(tmp_path / "w.safetensors")
    assert prepared(tmp_path, "fp32").engine.name == "torch-cpu-fp32"
    assert not (tmp_path / "engines").exists()


@pytest.fixture
def builds(built_once, tmp_path) -> Path:
    """A home with the network and no engines, in which they may be built."""
    shutil.copyfile(built_once / "w.safetensors", tmp_path / "w.safetensors")
    return tmp_path


def test_another_network_under_the_same_name_is_never_taken(home):
    file = weights.read(home / "w.safetensors")
    network_file(home / "w.safetensors", seed=1)
    with pytest.raises(WeightsError, match="was replaced while it was being prepared"):
        ready(file, "fp32", "cpu", home / "engines", SELF_TEST, lambda _: True)


def test_a_network_that_is_replaced_while_its_engine_is_built_is_refused_and_nothing_is_kept(builds):
    file = weights.read(builds / "w.safetensors")
    network_file(builds / "w.safetensors", seed=1)
    with pytest.raises(EngineError, match=r"openvino-cpu-int8 cannot be built: .*w\.safetensors: was replaced.*write fp32 or auto"):
        ready(file, "int8", "cpu", builds / "engines", SELF_TEST, lambda _: True)
    assert not list(builds.glob("engines/*/engine.json"))


def test_a_build_that_is_killed_is_refused_leaves_the_others_and_its_rest_is_cleared(builds, monkeypatch):
    class Killed(subprocess.Popen):
        def __init__(self, *words, **how):
            super().__init__(*words, **how)
            self.kill()

    (builds / "engines" / ".unfinished-before").mkdir(parents=True)
    monkeypatch.setattr(built.subprocess, "Popen", Killed)
    chosen = prepared(builds)
    assert chosen.engine.name == "torch-cpu-fp32"
    assert all("killed by signal 9" in one.refused for one in chosen.considered)
    assert [path.name for path in (builds / "engines").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_leaves_auto_with_fp32(builds):
    (builds / "engines").write_text("in the way")
    chosen = prepared(builds)
    assert chosen.engine.name == "torch-cpu-fp32"
    assert all("engines" in one.refused for one in chosen.considered)


def test_a_full_disk_is_left_to_the_ledger(builds, monkeypatch):
    monkeypatch.setattr(built.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9))
    with pytest.raises(EngineError, match="GB are free; make room"):
        prepared(builds, "int8")


def test_a_model_that_changes_between_its_comparison_and_its_opening_is_refused(home, monkeypatch):
    rewrite(home, "openvino-cpu-int8", pairs=AGREES, frame_ms=1.0, fp32_ms=10.0)
    compared = built._kept

    def and_then_it_changes(folder):
        found = compared(folder)
        for model in home.glob("engines/*/network.bin"):
            data = bytearray(model.read_bytes())
            data[len(data) // 2] ^= 1
            model.write_bytes(data)
        return found

    monkeypatch.setattr(built, "_kept", and_then_it_changes)
    with pytest.raises(EngineError, match="was changed while it was opened"):
        prepared(home, "int8")


def test_int8_quantizes_the_trunks_and_nothing_behind_them(built_once):
    (folder,) = (file.parent for file in built_once.glob("engines/*/engine.json") if "int8" in file.read_text())
    model = openvino_cpu.openvino.Core().read_model(folder / openvino_cpu.MODEL)
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    quantized = {op.get_friendly_name(): _fed_by_quantizer(op) for op in convolutions}
    assert len(quantized) == 4 * 13 + 4
    assert all(fed == ("trunks." in name) for name, fed in quantized.items())
    assert not any(_fed_by_quantizer(op) for op in model.get_ordered_ops() if op.get_type_name() in ("MatMul", "Einsum"))


def _fed_by_quantizer(op) -> bool:
    before = op.input_value(0).get_node()
    while before.get_type_name() in ("MaxPool", "Transpose"):
        before = before.input_value(0).get_node()
    return before.get_type_name() == "FakeQuantize"
