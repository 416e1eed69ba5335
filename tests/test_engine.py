import numpy as np
import pytest
import torch

from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import Engine, EngineError
from station.vision.preprocess import preprocess
from station.vision.weights import LoadedWeights

DESCRIPTION = NetworkDescription(("good", "crack", "stain"), width=1 / 16, input_size=64)
FRAME = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)


@pytest.fixture
def loaded(tmp_path) -> LoadedWeights:
    torch.manual_seed(0)
    weights.save(tmp_path / "w.safetensors", BilinearDVGG16(DESCRIPTION), {})
    return weights.load(tmp_path / "w.safetensors")


def test_a_frame_gives_probabilities_and_a_grey_heat_map(loaded):
    seen = Engine(loaded, "cpu").see(FRAME, "BayerRG8")
    assert seen.probabilities.dtype == np.float32
    assert seen.probabilities.shape == (3,)
    assert seen.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert seen.heat_map.dtype == np.uint8
    assert seen.heat_map.shape == (4, 4)
    assert seen.heat_map.max() == 255


def test_the_engine_says_what_the_network_says(loaded):
    logits, heat = loaded.network(preprocess(FRAME, "Mono8", DESCRIPTION))
    seen = Engine(loaded, "cpu").see(FRAME, "Mono8")
    assert np.allclose(seen.probabilities, logits.softmax(dim=1)[0].numpy(), atol=1e-6)
    assert np.abs(seen.heat_map - (heat[0] / heat.max() * 255).numpy()).max() <= 0.51


def test_the_same_frame_gives_the_same_bits(loaded):
    engine = Engine(loaded, "cpu")
    engine.warm_up()
    first = engine.see(FRAME, "BayerGB8")
    engine.see(255 - FRAME, "BayerGB8")
    again = engine.see(FRAME, "BayerGB8")
    assert first.probabilities.tobytes() == again.probabilities.tobytes()
    assert first.heat_map.tobytes() == again.heat_map.tobytes()


def test_a_heat_map_of_nothing_is_dark(loaded):
    torch.nn.init.zeros_(loaded.network.classifier.weight)
    seen = Engine(loaded, "cpu").see(FRAME, "Mono8")
    assert not seen.heat_map.any()


def test_damaged_weights_raise_rather_than_answer(loaded):
    loaded.network.classifier.bias[1] = float("nan")
    with pytest.raises(EngineError, match="not finite"):
        Engine(loaded, "cpu").see(FRAME, "Mono8")


def test_the_engine_knows_what_it_runs(loaded):
    engine = Engine(loaded, "cpu")
    assert engine.sha256 == loaded.sha256
    assert engine.description == DESCRIPTION
    assert engine.device == torch.device("cpu")


def test_a_device_that_is_not_there_is_refused(loaded, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Engine(loaded, "auto").device == torch.device("cpu")
    with pytest.raises(EngineError, match="cuda"):
        Engine(loaded, "cuda")
    with pytest.raises(EngineError, match="tpu"):
        Engine(loaded, "tpu")


def test_pixels_that_cannot_be_inspected_raise(loaded):
    with pytest.raises(ValueError, match="PixelFormat"):
        Engine(loaded, "cpu").see(FRAME, "YUV8")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_sees_what_the_cpu_sees(loaded):
    on_cpu = Engine(loaded, "cpu").see(FRAME, "Mono8")
    engine = Engine(loaded, "cuda")
    first, again = engine.see(FRAME, "Mono8"), engine.see(FRAME, "Mono8")
    assert first.probabilities.tobytes() == again.probabilities.tobytes()
    assert np.allclose(first.probabilities, on_cpu.probabilities, atol=1e-4)
    assert np.abs(first.heat_map.astype(int) - on_cpu.heat_map).max() <= 1
