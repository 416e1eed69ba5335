"""torch on the CPU, in float32: the engine that every other one is compared with."""

import ctypes
import sys
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from station.vision.dvgg16 import BilinearDVGG16
from station.vision.preprocess import Pixels, preprocess

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30


class TorchCpu:
    """A `Runner` on the CPU, channels-last. A network that is warm allocates nothing anew from the system."""

    def __init__(self, network: BilinearDVGG16) -> None:
        """Takes the network over."""
        _keep_memory()
        self._description = network.description
        self._network = network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def run(self, pixels: Pixels, pixel_format: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `Runner.run`."""
        picture = preprocess(pixels, pixel_format, self._description)
        with torch.inference_mode():
            logits, heat = self._network(picture)
            return logits[0].softmax(dim=0).numpy(), heat[0].numpy()

    def expect(self, pixels: Pixels, pixel_format: str) -> None:
        """Nothing: every shape takes the same way."""

    def keep_warm(self) -> None:
        """Nothing: a processor forgets nothing that one frame would not bring back, and a frame for nothing would hold up a part."""


@cache
def _keep_memory() -> None:
    """Lets glibc keep freed memory, of which a frame takes and gives some 300 MB, in place of asking the system for zeroed pages anew."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_TOP_PAD):
            libc.mallopt(parameter, _KEPT_BYTES if parameter != _M_TOP_PAD else _KEPT_BYTES // 16)
