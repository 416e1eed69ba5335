"""A network that runs: a frame in, class probabilities and heat map out, the same bits every time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from station.vision.dvgg16 import NetworkDescription
from station.vision.preprocess import Pixels
from station.vision.weights import Golden

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""In what the trunks compute; pooling, head and heat map are always computed in float32."""
GOLDEN_TOLERANCE = 0.01
"""So far may a probability of a golden picture be from what it was in training: the bar that any other precision or library must clear."""


class EngineError(Exception):
    """The network gave no usable answer, or what it should run on is not there."""


class GoldenError(EngineError):
    """The network does not score its golden pictures as it did in training.

    Attributes:
        difference: the largest of all golden probabilities, 0..1.
    """

    def __init__(self, words: str, difference: float) -> None:
        super().__init__(words)
        self.difference = difference


class Runner(Protocol):
    """A network on one device, in one precision, by one library."""

    def run(self, pixels: Pixels, pixel_format: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Soft-max probabilities (K,) and the unscaled heat map (S/16, S/16) >= 0 of the most probable class; the caller's own arrays.

        Raises:
            ValueError: the pixels cannot be inspected; see `preprocess`.
            EngineError: the device failed.
        """

    def expect(self, pixels: Pixels, pixel_format: str) -> None:
        """Frames of this shape and format will come: does what makes the first of them as fast as the others."""

    def keep_warm(self) -> None:
        """Called between parts while the line is idle: does what keeps the next frame as fast as the others, in a few milliseconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the network saw in one frame.

    Attributes:
        probabilities: float32 (K,), soft-max of the logits in the description's class order.
        heat_map: uint8 (S/16, S/16), Eq. 5 for the most probable class, grey 0-255 scaled by its own maximum; 0 where all of it is 0.
    """

    probabilities: npt.NDArray[np.float32]
    heat_map: npt.NDArray[np.uint8]


class Engine:
    """Runs one network. The same frame gives bit-identical output, every time.

    An engine in hand scores the golden pictures of its weights as they were scored in training: the same most probable class, every
    probability within `GOLDEN_TOLERANCE`. A network without golden pictures runs unverified: who lets it judge parts has to refuse it.

    Attributes:
        name: library, device and precision, such as `torch-cpu-fp32`.
        description: of the network that runs.
        golden_difference: the largest difference of a golden probability from what it was in training; 0 without golden pictures.
    """

    def __init__(self, name: str, runner: Runner, description: NetworkDescription, golden: Sequence[Golden]) -> None:
        """Lets the network see its golden pictures, which also warms it up.

        Raises:
            EngineError: the network's numbers are not finite, or its device failed.
            GoldenError: the network scores otherwise than it did in training.
        """
        self.name = name
        self.description = description
        self._runner = runner
        self.golden_difference = self._verified(golden)

    def see(self, pixels: Pixels, pixel_format: str) -> Seen:
        """Class probabilities and heat map of one frame, as a camera or `rgb_from_file` delivers it.

        Raises:
            ValueError: the pixels cannot be inspected; see `preprocess`.
            EngineError: the network's numbers are not finite, or its device failed.
        """
        probabilities, heat = self._runner.run(pixels, pixel_format)
        if not (np.isfinite(probabilities).all() and np.isfinite(heat).all()):
            raise EngineError("the network's output is not finite: its weights are damaged or were trained badly; train again")
        return Seen(probabilities, grey(heat))

    def expect(self, pixels: Pixels, pixel_format: str) -> None:
        """Frames of this shape and format will come: the first of them will be as fast as the others.

        Raises:
            ValueError, EngineError: as `see`.
        """
        self._runner.expect(pixels, pixel_format)

    def keep_warm(self) -> None:
        """Between parts, while the line is idle: the next frame is as fast as the others."""
        self._runner.keep_warm()

    def _verified(self, golden: Sequence[Golden]) -> float:
        """The largest difference of a golden probability, once every picture agrees."""
        seen = [self.see(then.rgb, "RGB8").probabilities for then in golden]
        differences = [float(np.abs(now - then.probabilities).max()) for then, now in zip(golden, seen, strict=True)]
        for number, (then, now, difference) in enumerate(zip(golden, seen, differences, strict=True)):
            if difference > GOLDEN_TOLERANCE or now.argmax() != then.probabilities.argmax():
                raise GoldenError(
                    f"golden picture {number}: was {self._words(then.probabilities)} in training, is {self._words(now)} with {self.name} "
                    f"here, a probability differs by {difference:.4f} (at most {GOLDEN_TOLERANCE}): this is not the network that was "
                    "trained, or it does not compute as it did; bring the weights file again, install the library versions it was "
                    "trained with, or try the other device",
                    max(differences),
                )
        return max(differences, default=0.0)

    def _words(self, probabilities: npt.NDArray[np.float32]) -> str:
        index = int(probabilities.argmax())
        return f"{self.description.classes[index]} {probabilities[index]:.4f}"


def choose_device(name: str) -> torch.device:
    """The device called "cpu" or "cuda", or with "auto" CUDA where there is one.

    Raises:
        EngineError: there is no such device on this machine.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise EngineError(f"device: {name!r} must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise EngineError("device: cuda was asked for, but torch finds no CUDA device; check the driver, or set cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def make_repeatable(device: torch.device) -> None:
    """From now on, in every thread, convolutions and products on the device give the same bits every time, in full float32."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def grey(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Grey 0-255, the maximum at 255 unless all is 0."""
    maximum = heat.max()
    if maximum <= 0:
        return np.zeros(heat.shape, dtype=np.uint8)
    return np.asarray(np.rint(heat / maximum * 255), dtype=np.uint8)
