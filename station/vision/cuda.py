"""torch on a CUDA device: the camera's pixels go up once, probabilities and heat map come back once, and between them runs one CUDA graph.

A CUDA graph is one launch in place of some three hundred, each of which would cost more time than its work. It is bound to a format and
a shape of pixels: the first frame of another one is slow (a second or so), since its graph is captured first.
"""

import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from station.vision.device_preprocess import DevicePreprocess, raw
from station.vision.dvgg16 import STRIDE, BilinearDVGG16
from station.vision.engine import EngineError, choose_device, make_repeatable
from station.vision.preprocess import Pixels, checked

CudaPrecision = Literal["fp32", "fp16", "bf16"]
_DTYPES: dict[CudaPrecision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_GRAPHS_KEPT = 4
"""The golden pictures', the self-test pictures', the camera's, and one more."""
_WARM_UP_FRAMES = 3
"""Libraries load kernels and choose algorithms in the first ones, which no capture allows."""
_HIGH_PRIORITY = -1
"""Of a stream: a part on the line goes before a network that another thread prepares."""

_idle_streams: list[torch.cuda.Stream] = []
"""Streams that no graph in use was captured on. torch hands out 32 in a process, then the same again; see `_Graph`."""


class FrameStep:
    """All of a frame's work between the two copies, on any device: trunks and 1x1 convolutions in `precision`, all else in float32."""

    def __init__(self, network: BilinearDVGG16, precision: CudaPrecision, device: torch.device) -> None:
        """Takes the network over: its weights move to the device and, but for the head's, to the precision."""
        self.description = network.description
        self._dtype = _DTYPES[precision]
        self._network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        for part in (network.trunks, network.a, network.b):
            part.to(self._dtype)

    def __call__(self, preprocess: DevicePreprocess, pixels: Tensor) -> Tensor:
        """Pixels as `preprocess` takes them -> float32 (K + h * w,): soft-max probabilities, then the heat map row by row."""
        logits, heat = self._network(preprocess(pixels).to(self._dtype))
        return torch.cat([logits[0].softmax(dim=0), heat[0].flatten()])


class Cuda:
    """A `Runner` on the CUDA device. Not for two threads at once; two of them may run beside each other in two threads."""

    def __init__(self, network: BilinearDVGG16, precision: CudaPrecision) -> None:
        """Takes the network over: it is moved to the device and rounded to `precision` in place.

        Raises:
            EngineError: there is no CUDA device, or the network does not fit into its memory.
        """
        device = choose_device("cuda")
        make_repeatable(device)
        with _cuda_errors_in_words():
            self._step = FrameStep(network, precision, device)
        self._device = device
        self._graphs: OrderedDict[tuple[str, tuple[int, ...]], _Graph] = OrderedDict()

    def run(self, pixels: Pixels, pixel_format: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `Runner.run`; the first frame of a format or shape takes a second or so.

        Raises:
            ValueError: the pixels cannot be inspected; see `preprocess`.
            EngineError: CUDA failed, or its memory is full.
        """
        checked(pixels, pixel_format)
        with torch.inference_mode(), _cuda_errors_in_words():
            answer = self._graph(pixel_format, pixels.shape).answer(pixels)
        classes, side = len(self._step.description.classes), self._step.description.input_size // STRIDE
        return answer[:classes], answer[classes:].reshape(side, side)

    def expect(self, pixels: Pixels, pixel_format: str) -> None:
        """Captures the graph of this shape and format, which takes a second or so.

        Raises:
            ValueError, EngineError: as `run`.
        """
        self.run(pixels, pixel_format)

    def keep_warm(self) -> None:
        """Sees the last frame again, so that neither clocks nor caches go to sleep.

        Raises:
            EngineError: CUDA failed.
        """
        if self._graphs:
            with torch.inference_mode(), _cuda_errors_in_words():
                next(reversed(self._graphs.values())).replay()

    def _graph(self, pixel_format: str, shape: tuple[int, ...]) -> "_Graph":
        """The graph of this format and shape, the last of the ones kept."""
        key = (pixel_format, shape)
        if key not in self._graphs:
            while len(self._graphs) >= _GRAPHS_KEPT:
                self._graphs.popitem(last=False)
            preprocess = DevicePreprocess(pixel_format, shape[0], shape[1], self._step.description, self._device)
            self._graphs[key] = _Graph(self._step, preprocess, self._device)
        self._graphs.move_to_end(key)
        return self._graphs[key]


class _Graph:
    """A captured step with its buffers: page-locked ones here, fixed ones there.

    It has a stream of its own, and warms up on another. cuBLAS's scratch memory belongs to a stream: on one without, it is taken within
    the capture, from the memory that lives as long as the graph. Two graphs of one stream would share it, and torch (2.13,
    pytorch#193402) frees it with the first of them.
    """

    def __init__(self, step: FrameStep, preprocess: DevicePreprocess, device: torch.device) -> None:
        self._pixels = torch.zeros(preprocess.shape, dtype=preprocess.dtype, device=device)
        for _ in range(_WARM_UP_FRAMES):
            step(preprocess, self._pixels)
        torch.cuda.synchronize()
        self._stream = _idle_streams.pop() if _idle_streams else torch.cuda.Stream(priority=_HIGH_PRIORITY)  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()
        weakref.finalize(self, _let_go, self._graph, self._stream).atexit = False
        # Entered apart from the capture, which leaves its stream the current one when it fails. Another thread may run its own graph
        # meanwhile, which the capture's mode "global" would forbid.
        with torch.cuda.stream(self._stream), torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._answer = step(preprocess, self._pixels)
        self._preprocess = preprocess  # the graph reads its constants
        self._pinned = _page_locked(preprocess.shape, preprocess.dtype)
        self._pinned_answer = _page_locked(self._answer.shape, self._answer.dtype)

    def answer(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """The step's answer for these pixels, an array of its own."""
        np.copyto(self._pinned.numpy(), raw(pixels))
        with torch.cuda.stream(self._stream):
            self._pixels.copy_(self._pinned, non_blocking=True)
        return self.replay()

    def replay(self) -> npt.NDArray[np.float32]:
        """The step's answer for the pixels that are there."""
        with torch.cuda.stream(self._stream):
            self._graph.replay()
            self._pinned_answer.copy_(self._answer, non_blocking=True)
        self._stream.synchronize()
        return np.array(self._pinned_answer.numpy())


def _let_go(graph: torch.cuda.CUDAGraph, stream: torch.cuda.Stream) -> None:
    """Destroys a graph that nobody has any more; then its stream is free for the next one."""
    graph.reset()
    _idle_streams.append(stream)


def _page_locked(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory of this machine that the device copies from and to by itself."""
    return torch.zeros(shape, dtype=dtype, pin_memory=True)


@contextmanager
def _cuda_errors_in_words() -> Iterator[None]:
    """torch's errors as `EngineError`."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        # A capture that runs out of memory may end with an error of its own.
        if isinstance(error, torch.OutOfMemoryError) or isinstance(error.__context__, torch.OutOfMemoryError):
            raise EngineError(f"cuda: the GPU's memory is full; end what else runs on it, or set precision fp16 ({reason})") from error
        raise EngineError(f"cuda: {reason}; restart the station; if it comes again, check the driver with nvidia-smi") from error
