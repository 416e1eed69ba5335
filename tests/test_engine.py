from dataclasses import replace

import numpy as np
import pytest
import torch

from station.vision import torch_cpu, weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import GOLDEN_TOLERANCE, EngineError, GoldenError
from station.vision.parity import reference
from station.vision.preprocess import preprocess
from station.vision.weights import Golden, LoadedWeights

DESCRIPTION = NetworkDescription(("good", "crack", "stain"), width=1 / 16, input_size=64)
FRAME = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)


@pytest.fixture
def loaded(tmp_path) -> LoadedWeights:
    torch.manual_seed(0)
    weights.save(tmp_path / "w.safetensors", BilinearDVGG16(DESCRIPTION), {}, [])
    return weights.load(tmp_path / "w.safetensors")


def test_a_frame_gives_probabilities_and_a_grey_heat_map(loaded):
    seen = reference(loaded, "cpu").see(FRAME, "BayerRG8")
    assert seen.probabilities.dtype == np.float32
    assert seen.probabilities.shape == (3,)
    assert seen.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert seen.heat_map.dtype == np.uint8
    assert seen.heat_map.shape == (4, 4)
    assert seen.heat_map.max() == 255


def test_the_engine_says_what_the_network_says(loaded):
    logits, heat = loaded.network(preprocess(FRAME, "Mono8", DESCRIPTION))
    seen = reference(loaded, "cpu").see(FRAME, "Mono8")
    assert np.allclose(seen.probabilities, logits.softmax(dim=1)[0].numpy(), atol=1e-6)
    assert np.abs(seen.heat_map - (heat[0] / heat.max() * 255).numpy()).max() <= 0.51


def test_the_same_frame_gives_the_same_bits(loaded):
    engine = reference(loaded, "cpu")
    first = engine.see(FRAME, "BayerGB8")
    engine.see(255 - FRAME, "BayerGB8")
    again = engine.see(FRAME, "BayerGB8")
    assert first.probabilities.tobytes() == again.probabilities.tobytes()
    assert first.heat_map.tobytes() == again.heat_map.tobytes()


def test_a_heat_map_of_nothing_is_dark(loaded):
    torch.nn.init.zeros_(loaded.network.classifier.weight)
    seen = reference(loaded, "cpu").see(FRAME, "Mono8")
    assert not seen.heat_map.any()


def test_damaged_weights_raise_rather_than_answer(loaded):
    loaded.network.classifier.bias[1] = float("nan")
    with pytest.raises(EngineError, match="not finite"):
        reference(loaded, "cpu").see(FRAME, "Mono8")


def test_the_engine_knows_what_it_runs(loaded):
    engine = reference(loaded, "cpu")
    assert engine.description == DESCRIPTION
    assert engine.name == "torch-cpu-fp32"


def test_a_device_that_is_not_there_is_refused(loaded, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert reference(loaded, "auto").name == "torch-cpu-fp32"
    with pytest.raises(EngineError, match="cuda"):
        reference(loaded, "cuda")
    with pytest.raises(EngineError, match="tpu"):
        reference(loaded, "tpu")


def test_pixels_that_cannot_be_inspected_raise(loaded):
    with pytest.raises(ValueError, match="PixelFormat"):
        reference(loaded, "cpu").see(FRAME, "YUV8")


# --- the golden pictures


def with_golden(loaded: LoadedWeights, count: int = 2, shift: float = 0.0) -> LoadedWeights:
    """The network with golden pictures of noise; `shift` is moved from the most probable class to the least probable one."""
    engine, found = reference(replace(loaded, golden=()), "cpu"), []
    for seed in range(count):
        rgb = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        probabilities = engine.see(rgb, "RGB8").probabilities.copy()
        probabilities[probabilities.argmax()] += shift if seed else 0
        probabilities[probabilities.argmin()] -= shift if seed else 0
        found.append(Golden(rgb, probabilities))
    return replace(loaded, golden=tuple(found))


def test_an_engine_scores_its_golden_pictures_as_in_training(loaded):
    assert reference(with_golden(loaded), "cpu").golden_difference == 0
    assert reference(with_golden(loaded, shift=0.9 * GOLDEN_TOLERANCE), "cpu").golden_difference == pytest.approx(0.009, abs=1e-6)


def test_a_probability_beyond_the_tolerance_is_refused_in_words(loaded):
    was_wrong = with_golden(loaded, count=3, shift=1.1 * GOLDEN_TOLERANCE)
    with pytest.raises(
        GoldenError, match=r"golden picture 1: was \w+ 0\.\d+ in training, is \w+ 0\.\d+ with torch-cpu-fp32 here.*bring the weights file"
    ) as refused:
        reference(was_wrong, "cpu")
    assert refused.value.difference == pytest.approx(0.011, abs=1e-6)


def test_another_most_probable_class_is_refused_however_near_it_was(loaded):
    golden = with_golden(loaded, count=1).golden[0]
    first, second = np.argsort(golden.probabilities)[:-3:-1]
    loaded.network.classifier.bias[second] += float(np.log(golden.probabilities[first] / golden.probabilities[second])) - 0.001
    golden = with_golden(loaded, count=1).golden[0]
    swapped = golden.probabilities.copy()
    swapped[[first, second]] = swapped[[second, first]]
    assert np.abs(swapped - golden.probabilities).max() < GOLDEN_TOLERANCE / 10
    with pytest.raises(GoldenError, match=r"golden picture 0: was"):
        reference(replace(loaded, golden=(Golden(golden.rgb, swapped),)), "cpu")


def test_a_library_that_computes_something_else_is_refused(loaded, monkeypatch):
    known = with_golden(loaded)

    def red_and_blue_swapped(pixels, pixel_format, description):
        return preprocess(pixels, pixel_format, description).flip(1)

    monkeypatch.setattr(torch_cpu, "preprocess", red_and_blue_swapped)
    with pytest.raises(GoldenError, match="install the library versions"):
        reference(known, "cpu")


def test_damaged_weights_are_found_by_their_golden_pictures(loaded):
    known = with_golden(loaded)
    known.network.classifier.bias[1] = float("nan")
    with pytest.raises(EngineError, match="not finite"):
        reference(known, "cpu")


def test_a_network_that_is_not_in_a_file_yet_needs_no_golden_pictures(loaded):
    assert reference(LoadedWeights(loaded.network, DESCRIPTION, {}, ""), "cpu").golden_difference == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_sees_what_the_cpu_sees(loaded):
    on_cpu = reference(loaded, "cpu").see(FRAME, "Mono8")
    engine = reference(loaded, "cuda")
    first, again = engine.see(FRAME, "Mono8"), engine.see(FRAME, "Mono8")
    assert first.probabilities.tobytes() == again.probabilities.tobytes()
    assert np.allclose(first.probabilities, on_cpu.probabilities, atol=1e-4)
    assert np.abs(first.heat_map.astype(int) - on_cpu.heat_map).max() <= 1
