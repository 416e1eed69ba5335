"""Where there is no CUDA device, a stand-in records the operations of a capture and repeats them in replay, on the CPU."""

import gc
import threading
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from station.vision import cuda
from station.vision.cuda import Cuda, CudaPrecision, FrameStep
from station.vision.device_preprocess import DevicePreprocess, raw
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import Engine, EngineError
from station.vision.preprocess import PIXEL_FORMATS, preprocess
from station.vision.weights import Golden

torch.set_num_threads(1)
DESCRIPTION = NetworkDescription(("good", "crack", "stain"), width=1 / 16, input_size=64)
FRAME = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
HAS_CUDA = torch.cuda.is_available()


def network(description: NetworkDescription = DESCRIPTION) -> BilinearDVGG16:
    torch.manual_seed(0)
    return BilinearDVGG16(description)


def expected(pixels: np.ndarray, pixel_format: str, description: NetworkDescription = DESCRIPTION) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        logits, heat = network(description)(preprocess(pixels, pixel_format, description))
        return logits[0].softmax(dim=0).numpy(), heat[0].numpy()


class Recording(TorchDispatchMode):
    """Every operation of a capture, with the very tensors it read and wrote."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result


class StandInGraph:
    def __init__(self):
        self.recording = Recording()
        self.replays = 0
        self.is_reset = False

    def replay(self):
        self.replays += 1
        for operation, args, kwargs, result in self.recording.operations:
            again = operation(*args, **kwargs)
            if isinstance(again, torch.Tensor) and again.data_ptr() != result.data_ptr():
                result.copy_(again)

    def reset(self):
        self.is_reset = True
        self.recording.operations.clear()


class StandInStream:
    def __init__(self, priority=0):
        self.priority = priority

    def synchronize(self):
        pass


@pytest.fixture
def captures(monkeypatch) -> list:
    """(graph, stream) of every capture; on a machine without CUDA with stand-ins for what torch has of it."""
    found = []
    real = torch.cuda.graph

    @contextmanager
    def capture(graph, stream=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        found.append((graph, stream))
        with real(graph, stream=stream, capture_error_mode=capture_error_mode) if HAS_CUDA else graph.recording:
            yield

    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(cuda, "_idle_streams", [])
    if not HAS_CUDA:
        monkeypatch.setattr(torch.cuda, "CUDAGraph", StandInGraph)
        monkeypatch.setattr(torch.cuda, "Stream", StandInStream)
        monkeypatch.setattr(torch.cuda, "stream", nullcontext)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(cuda, "choose_device", lambda _: torch.device("cpu"))
        monkeypatch.setattr(cuda, "_page_locked", lambda shape, dtype: torch.zeros(shape, dtype=dtype))
    return found


# --- the step, on the CPU


def stepped(precision: CudaPrecision, pixels: np.ndarray, pixel_format: str) -> np.ndarray:
    cpu = torch.device("cpu")
    step = FrameStep(network(), precision, cpu)
    with torch.inference_mode():
        return step(DevicePreprocess(pixel_format, *pixels.shape[:2], DESCRIPTION, cpu), torch.from_numpy(raw(pixels))).numpy()


@pytest.mark.parametrize("pixel_format", ["BayerRG8", "BayerGB12", "Mono10", "BGR8"])
def test_the_step_says_what_the_network_says(pixel_format):
    known = PIXEL_FORMATS[pixel_format]
    shape = (60, 80) if known.components == 1 else (60, 80, 3)
    pixels = np.random.default_rng(1).integers(0, 2**known.bits, shape).astype(np.uint8 if known.bits == 8 else np.uint16)
    answer = stepped("fp32", pixels, pixel_format)
    probabilities, heat = expected(pixels, pixel_format)
    assert answer.dtype == np.float32
    assert answer[:3] == pytest.approx(probabilities, abs=1e-5)
    assert answer[3:].reshape(4, 4) == pytest.approx(heat, abs=0.01 * float(heat.max()))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 1e-3), ("bf16", 1e-2)])
def test_half_precision_is_near(precision, tolerance):
    answer = stepped(precision, FRAME, "Mono8")
    probabilities, _ = expected(FRAME, "Mono8")
    assert answer[:3] == pytest.approx(probabilities, abs=tolerance)
    assert (answer[:3] != probabilities).any()


def test_only_trunks_and_reductions_are_in_half_precision():
    taken = network()
    FrameStep(taken, "fp16", torch.device("cpu"))
    assert {name.split(".")[0]: parameter.dtype for name, parameter in taken.named_parameters()} == {
        "trunks": torch.float16,
        "a": torch.float16,
        "b": torch.float16,
        "classifier": torch.float32,
    }
    assert all(convolution.weight.is_contiguous(memory_format=torch.channels_last) for convolution in taken.a.convolutions())


def test_features_too_large_for_half_precision_once_pooled_give_numbers():
    taken = network()
    with torch.no_grad():
        for branch in (taken.a, taken.b):
            for convolution in branch.convolutions():
                convolution.weight.mul_(100)
    step = FrameStep(taken, "fp16", torch.device("cpu"))
    mono = DevicePreprocess("Mono8", 60, 80, DESCRIPTION, torch.device("cpu"))
    with torch.inference_mode():
        picture = mono(torch.from_numpy(FRAME))
        f_a, f_b = (features.float().flatten(2) for features in taken.features(picture.half()))
        assert (f_a @ f_b.transpose(1, 2)).abs().max() > torch.finfo(torch.float16).max
        assert step(mono, torch.from_numpy(FRAME)).isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("trunks", [1, 4])
def test_the_step_waits_for_no_number_and_stays_on_its_device(precision, trunks):
    # The device "meta" has no numbers: what asks for one, or mixes in a tensor of another device, raises.
    meta = torch.device("meta")
    description = NetworkDescription(DESCRIPTION.classes, width=1 / 16, input_size=64, trunks=trunks)
    step = FrameStep(network(description), precision, meta)
    mosaic = DevicePreprocess("BayerRG12", 60, 80, description, meta)
    with torch.inference_mode():
        answer = step(mosaic, torch.zeros(mosaic.shape, dtype=mosaic.dtype, device=meta))
    assert (answer.shape, answer.dtype) == ((3 + 16,), torch.float32)


# --- the graphs, captured for real where there is a CUDA device


def test_a_replayed_graph_says_what_the_network_says(captures):
    runner = Cuda(network(), "fp32")
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (60, 80), dtype=np.uint8)
        probabilities, heat = runner.run(pixels, "BayerRG8")
        then, heat_then = expected(pixels, "BayerRG8")
        assert (probabilities.dtype, probabilities.shape) == (np.float32, (3,))
        assert (heat.dtype, heat.shape) == (np.float32, (4, 4))
        assert probabilities == pytest.approx(then, abs=1e-4)
        assert heat == pytest.approx(heat_then, abs=0.05 * float(heat_then.max()))
    assert len(captures) == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.usefixtures("captures")
def test_the_same_frame_gives_the_same_bits(precision):
    runner = Cuda(network(), precision)
    first = [found.tobytes() for found in runner.run(FRAME, "BayerGB8")]
    runner.run(255 - FRAME, "BayerGB8")
    runner.run(FRAME, "Mono8")
    assert [found.tobytes() for found in runner.run(FRAME, "BayerGB8")] == first
    assert [found.tobytes() for found in Cuda(network(), precision).run(FRAME, "BayerGB8")] == first


@pytest.mark.usefixtures("captures")
def test_the_arrays_belong_to_the_caller():
    runner = Cuda(network(), "fp32")
    probabilities, heat = runner.run(FRAME, "Mono8")
    before = probabilities.copy(), heat.copy()
    runner.run(255 - FRAME, "Mono8")
    assert (probabilities == before[0]).all()
    assert (heat == before[1]).all()
    probabilities[:], heat[:] = 0, 0
    assert runner.run(FRAME, "Mono8")[0] == pytest.approx(before[0], abs=0)


def test_a_graph_belongs_to_a_format_and_a_shape(captures):
    runner = Cuda(network(), "fp32")
    wide = np.random.default_rng(2).integers(0, 4096, (50, 90), dtype=np.uint16)
    for _ in range(2):
        for pixels, pixel_format in ((FRAME, "Mono8"), (FRAME, "BayerRG8"), (wide, "BayerRG12")):
            assert runner.run(pixels, pixel_format)[0] == pytest.approx(expected(pixels, pixel_format)[0], abs=1e-4)
    assert len(captures) == 3


@pytest.mark.usefixtures("captures")
def test_a_strided_view_of_pixels_is_seen_as_it_is():
    wide = np.random.default_rng(2).integers(0, 4096, (60, 160), dtype=np.uint16)[:, ::2]
    assert Cuda(network(), "fp32").run(wide, "Mono12")[0] == pytest.approx(expected(wide.copy(), "Mono12")[0], abs=1e-4)


def test_few_graphs_are_kept_and_the_one_used_longest_ago_goes(captures):
    runner = Cuda(network(), "fp32")
    shapes = [(60, width) for width in range(80, 85)]
    for shape in shapes[:4]:
        runner.run(np.ones(shape, dtype=np.uint8), "Mono8")
    for shape in (shapes[0], shapes[4], shapes[0]):  # the fifth takes the place of the second
        runner.run(np.ones(shape, dtype=np.uint8), "Mono8")
    assert len(captures) == 5
    runner.run(np.ones(shapes[1], dtype=np.uint8), "Mono8")
    assert len(captures) == 6


def test_no_two_graphs_in_use_were_captured_on_one_stream(captures):
    runners = [Cuda(network(), "fp32") for _ in range(2)]
    for runner in runners:
        runner.run(FRAME, "Mono8")
        runner.run(FRAME, "BayerRG8")
    streams = {id(stream) for _, stream in captures}
    assert len(streams) == 4
    del runner, runners
    gc.collect()
    for _ in range(3):
        Cuda(network(), "fp32").run(FRAME, "Mono8")
        gc.collect()
    assert {id(stream) for _, stream in captures} == streams


@pytest.mark.skipif(HAS_CUDA, reason="looks into the stand-in")
def test_a_graph_is_destroyed_before_its_stream_serves_again(captures, monkeypatch):
    class Idle(list):
        def append(self, stream):
            assert captures[0][0].is_reset
            super().append(stream)

    monkeypatch.setattr(cuda, "_idle_streams", Idle())
    Cuda(network(), "fp32").run(FRAME, "Mono8")
    gc.collect()
    assert cuda._idle_streams == [captures[0][1]]
    assert captures[0][1].priority < 0


def test_keeping_warm_changes_no_answer(captures):
    runner = Cuda(network(), "fp32")
    runner.keep_warm()
    assert not captures
    first = runner.run(FRAME, "Mono8")
    runner.keep_warm()
    again = runner.run(FRAME, "Mono8")
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tobytes() == again[1].tobytes()


@pytest.mark.skipif(HAS_CUDA, reason="looks into the stand-in")
def test_keeping_warm_replays_the_last_frames_graph(captures):
    runner = Cuda(network(), "fp32")
    runner.run(FRAME, "Mono8")
    runner.run(FRAME, "BayerRG8")
    runner.run(FRAME, "Mono8")
    runner.keep_warm()
    assert [graph.replays for graph, _ in captures] == [3, 1]


@pytest.mark.usefixtures("captures")
def test_the_engine_takes_it_for_a_runner():
    rgb = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    golden = Golden(rgb, expected(rgb, "RGB8")[0])
    engine = Engine("torch-cuda-fp32", Cuda(network(), "fp32"), DESCRIPTION, [golden])
    assert engine.golden_difference < 1e-4
    assert engine.see(FRAME, "BayerRG8").heat_map.max() == 255
    engine.keep_warm()


# --- what goes wrong


def test_pixels_that_cannot_be_inspected_raise(captures):
    runner = Cuda(network(), "fp32")
    with pytest.raises(ValueError, match="PixelFormat 'YUV8'"):
        runner.run(FRAME, "YUV8")
    with pytest.raises(ValueError, match="promises uint16"):
        runner.run(FRAME, "Mono12")
    assert not captures


def test_without_a_cuda_device_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="no CUDA device"):
        Cuda(network(), "fp16")


def failing(error: Exception):
    def fail(*_args, **_keywords):
        raise error

    return fail


@pytest.mark.usefixtures("captures")
def test_full_memory_is_said_in_words(monkeypatch):
    runner = Cuda(network(), "fp32")
    monkeypatch.setattr(FrameStep, "__call__", failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")))
    with pytest.raises(EngineError, match=r"memory is full; .*fp16 \(CUDA out of memory"):
        runner.run(FRAME, "Mono8")


@pytest.mark.usefixtures("captures")
def test_full_memory_that_breaks_a_capture_is_said_in_words(monkeypatch):
    runner = Cuda(network(), "fp32")

    @contextmanager
    def capture_that_ends_badly(*_args, **_keywords):
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(torch.cuda, "graph", capture_that_ends_badly)
    frames = iter(range(cuda._WARM_UP_FRAMES))

    def full_after_warm_up(self, mono, pixels):  # noqa: ARG001
        if next(frames, None) is None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(FrameStep, "__call__", full_after_warm_up)
    with pytest.raises(EngineError, match="memory is full"):
        runner.run(FRAME, "Mono8")


@pytest.mark.usefixtures("captures")
def test_a_cuda_error_is_said_in_words_on_the_line_and_between_parts(monkeypatch):
    runner = Cuda(network(), "fp32")
    runner.run(FRAME, "Mono8")
    monkeypatch.setattr(cuda._Graph, "replay", failing(RuntimeError("CUDA error: unspecified launch failure\nmore")))
    with pytest.raises(EngineError, match=r"cuda: CUDA error: unspecified launch failure; restart the station"):
        runner.run(FRAME, "Mono8")
    with pytest.raises(EngineError, match="unspecified launch failure"):
        runner.keep_warm()


@pytest.mark.usefixtures("captures")
def test_a_failed_first_frame_leaves_nothing_behind(monkeypatch):
    runner = Cuda(network(), "fp32")
    with monkeypatch.context() as broken:
        broken.setattr(FrameStep, "__call__", failing(RuntimeError("CUDA error: an illegal memory access")))
        with pytest.raises(EngineError, match="illegal memory access"):
            runner.run(FRAME, "Mono8")
    runner.keep_warm()
    assert runner.run(FRAME, "Mono8")[0] == pytest.approx(expected(FRAME, "Mono8")[0], abs=1e-4)


# --- on a CUDA device alone


@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 2e-3), ("bf16", 1e-2)])
def test_cuda_sees_what_the_cpu_sees(precision, tolerance):
    assert Cuda(network(), precision).run(FRAME, "BayerRG8")[0] == pytest.approx(expected(FRAME, "BayerRG8")[0], abs=tolerance)


@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
def test_one_thread_captures_while_another_inspects():
    runner = Cuda(network(), "fp16")
    first = [found.tobytes() for found in runner.run(FRAME, "Mono8")]
    done = threading.Event()

    def prepare():
        for width in range(64, 70):
            Cuda(network(), "fp16").run(np.ones((60, width), dtype=np.uint8), "Mono8")
        done.set()

    thread = threading.Thread(target=prepare)
    thread.start()
    while thread.is_alive():
        assert [found.tobytes() for found in runner.run(FRAME, "Mono8")] == first
    assert done.is_set()


@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
def test_a_graph_outlives_those_captured_and_destroyed_after_it():
    runner = Cuda(network(), "fp16")
    first = [found.tobytes() for found in runner.run(FRAME, "Mono8")]
    for _ in range(40):  # more than torch has streams
        Cuda(network(), "fp16").run(FRAME, "BayerRG8")
        gc.collect()
    torch.cuda.empty_cache()
    assert [found.tobytes() for found in runner.run(FRAME, "Mono8")] == first


@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
def test_frames_allocate_nothing_on_the_device():
    runner = Cuda(network(), "fp16")
    runner.run(FRAME, "Mono8")
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(20):
        runner.run(FRAME, "Mono8")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
