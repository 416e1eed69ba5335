"""The floor under a frame's time: the network's multiply-accumulates over what this machine was seen to do of them in a second."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from station.bench.timing import Clock
from station.vision.dvgg16 import REDUCED_CHANNELS, STRIDE, VGG16_BLOCKS, NetworkDescription

_PRODUCT = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices: large enough to fill the device, small enough for many products a second."""
_QUEUED = {"cpu": 1, "cuda": 10}
"""So many are queued between two looks at the clock, so that a GPU does not wait for the host."""


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one frame.

    Attributes:
        trunks: in the 3x3 convolutions of all trunks.
        head: in everything behind them, the heat map included.
    """

    trunks: int
    head: int

    @property
    def total(self) -> int:
        """Of the whole frame."""
        return self.trunks + self.head


def macs(description: NetworkDescription) -> Macs:
    """What one frame costs, counted from the description; 245.5 thousand million in the trunks of the paper's network at 448 x 448."""
    trunk = sum(9 * inputs * outputs * side * side for inputs, outputs, side in _convolutions(description))
    positions = (description.input_size // STRIDE) ** 2
    reduced = description.channels(REDUCED_CHANNELS)
    channels, classes = 2 * reduced, len(description.classes)
    reduce = 4 * description.channels(512) * reduced * positions
    pool, classify, heat_map = channels**2 * positions, channels**2 * classes, channels**2 + channels * positions
    return Macs(description.trunks * trunk, reduce + pool + classify + heat_map)


@dataclass(frozen=True, slots=True)
class Peak:
    """What a device was seen to do.

    Attributes:
        macs_per_s: the best of `measured`.
        measured: by what was computed, in words.
    """

    macs_per_s: float
    measured: dict[str, float]

    def floor_ms(self, work: Macs) -> float:
        """The time below which no frame of that work can be."""
        return 1e3 * work.total / self.macs_per_s


def peak(device: torch.device, dtype: torch.dtype, seconds: float = 1.0, clock: Clock = time.perf_counter) -> Peak:
    """The best of a matrix product and VGG16's own convolutions at 448 x 448, batch 1, each tried for so many seconds."""
    measured = {}
    with torch.inference_mode():
        side = _PRODUCT[device.type]
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        measured[f"product {side} x {side}"] = _macs_per_s(partial(torch.matmul, a, b), side**3, device, seconds, clock)
        for inputs, outputs, side in dict.fromkeys(_convolutions(NetworkDescription(("good", "bad")))[1:]):
            layer = nn.Conv2d(inputs, outputs, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            x = torch.randn(1, inputs, side, side, device=device).to(dtype).to(memory_format=torch.channels_last)
            name = f"3x3 {inputs} -> {outputs} at {side} x {side}"
            measured[name] = _macs_per_s(partial(layer, x), 9 * inputs * outputs * side**2, device, seconds, clock)
    return Peak(max(measured.values()), measured)


def _macs_per_s(work: Callable[[], object], count: int, device: torch.device, seconds: float, clock: Clock) -> float:
    """By the fastest try, of which there are at least two, the first one to warm up."""

    def once() -> float:
        begun = clock()
        for _ in range(_QUEUED[device.type]):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - begun

    once()
    until = clock() + seconds
    fastest = once()
    while clock() < until:
        fastest = min(fastest, once())
    return count * _QUEUED[device.type] / fastest


def _convolutions(description: NetworkDescription) -> list[tuple[int, int, int]]:
    """Inputs, outputs and side in positions of a trunk's 3x3 convolutions, in order."""
    found = []
    inputs = 3
    for block, outputs in enumerate(VGG16_BLOCKS):
        for full in outputs:
            found.append((inputs, description.channels(full), description.input_size >> block))
            inputs = description.channels(full)
    return found
