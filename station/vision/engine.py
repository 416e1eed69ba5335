"""A loaded network, verified and warm: a frame in, class probabilities and heat map out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from station.vision.preprocess import Pixels, preprocess
from station.vision.weights import Golden, LoadedWeights

GOLDEN_TOLERANCE = 0.01
"""So far may a probability of a golden picture be from what it was in training: the bar that any other precision or library must clear."""


class EngineError(Exception):
    """The network gave no usable answer, or the device it should run on is not there."""


class GoldenError(EngineError):
    """The network does not score its golden pictures as it did in training.

    Attributes:
        difference: the largest of all golden probabilities, 0..1.
    """

    def __init__(self, words: str, difference: float) -> None:
        super().__init__(words)
        self.difference = difference


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
    """Runs one network on one device. The same frame gives bit-identical output, every time.

    An engine in hand scores the golden pictures of its weights as they were scored in training: the same most probable class, every
    probability within `GOLDEN_TOLERANCE`. A network without golden pictures runs unverified: who lets it judge parts has to refuse it.

    Attributes:
        description: of the network that runs.
        sha256: of its weights file.
        device: where it runs, `cpu` or `cuda`.
        golden_difference: the largest difference of a golden probability from what it was in training; 0 without golden pictures.
    """

    def __init__(self, loaded: LoadedWeights, device: str = "auto") -> None:
        """Takes the network over, moves it to the device and lets it see its golden pictures, which also warms it up.

        Args:
            device: "cpu", "cuda", or "auto" for CUDA where there is one.

        Raises:
            EngineError: the device is not there, or the network's numbers are not finite.
            GoldenError: the network scores otherwise than it did in training.
        """
        self.description = loaded.description
        self.sha256 = loaded.sha256
        self.device = choose_device(device)
        make_repeatable(self.device)
        self._network = loaded.network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.golden_difference = self._verify(loaded.golden)

    def see(self, pixels: Pixels, pixel_format: str) -> Seen:
        """Class probabilities and heat map of one frame, as a camera or `rgb_from_file` delivers it.

        Raises:
            ValueError: the pixels cannot be inspected; see `preprocess`.
            EngineError: the network's numbers are not finite.
        """
        picture = preprocess(pixels, pixel_format, self.description)
        with torch.inference_mode():
            logits, heat = self._network(picture.to(self.device))
            probabilities = logits[0].softmax(dim=0).cpu().numpy()
            heat_map = heat[0].cpu().numpy()
        if not (np.isfinite(probabilities).all() and np.isfinite(heat_map).all()):
            raise EngineError("the network's output is not finite: its weights are damaged or were trained badly; train again")
        return Seen(probabilities, grey(heat_map))

    def _verify(self, golden: Sequence[Golden]) -> float:
        """The largest difference of a golden probability, once every picture agrees."""
        seen = [self.see(then.rgb, "RGB8").probabilities for then in golden]
        differences = [float(np.abs(now - then.probabilities).max()) for then, now in zip(golden, seen, strict=True)]
        for number, (then, now, difference) in enumerate(zip(golden, seen, differences, strict=True)):
            if difference > GOLDEN_TOLERANCE or now.argmax() != then.probabilities.argmax():
                raise GoldenError(
                    f"golden picture {number}: was {self._words(then.probabilities)} in training, is {self._words(now)} on {self.device} "
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
