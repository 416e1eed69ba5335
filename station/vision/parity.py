"""The parity gate: an engine may judge parts only if it says of a recipe's own pictures what the fp32 network says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from station.vision.engine import Engine, Runner, Seen, choose_device, make_repeatable
from station.vision.preprocess import Pixels
from station.vision.torch_cpu import TorchCpu
from station.vision.weights import LoadedWeights

PROBABILITY_TOLERANCE = 0.01
"""So far may a probability be from the fp32 network's."""
HEAT_MAP_CORRELATION = 0.99
"""So well must a heat map agree with the fp32 network's: Pearson's correlation over its positions."""

Picture = tuple[Pixels, str]
"""Pixels and their PFNC pixel format."""
Passes = Callable[[Sequence[float]], bool]
"""Whether a part with these probabilities may pass: its most probable class is good, and probable enough."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One picture, seen by the fp32 network and by the engine.

    Attributes:
        fp32, engine: their probabilities.
        heat_map: Pearson's correlation of their heat maps over the positions, -1..1; where one is flat, 1 if both are equal, else 0.
    """

    fp32: tuple[float, ...]
    engine: tuple[float, ...]
    heat_map: float


@dataclass(frozen=True, slots=True)
class Parity:
    """How near an engine is to the fp32 network, over all pictures compared.

    Attributes:
        pictures: how many there were.
        verdicts: on how many of them class and verdict are the same.
        probability: the largest difference of a probability, 0..1.
        heat_map: the smallest correlation of a heat map, -1..1.
    """

    pictures: int
    verdicts: int
    probability: float
    heat_map: float

    @property
    def holds(self) -> bool:
        """Whether the engine may judge parts."""
        near = self.probability <= PROBABILITY_TOLERANCE and self.heat_map >= HEAT_MAP_CORRELATION
        return self.pictures > 0 and self.verdicts == self.pictures and near

    def __str__(self) -> str:
        return (
            f"{self.verdicts} of {self.pictures} verdicts the same, probabilities within {self.probability:.4f} (at most "
            f"{PROBABILITY_TOLERANCE}), heat maps correlated {self.heat_map:.4f} or better (at least {HEAT_MAP_CORRELATION})"
        )


def reference(loaded: LoadedWeights, device: str = "auto") -> Engine:
    """The network in fp32 on torch, on the CPU or a CUDA device, its golden pictures verified. The network is taken over.

    Raises:
        EngineError, GoldenError: the device is not there, or as `Engine`.
    """
    chosen = choose_device(device)
    make_repeatable(chosen)
    return Engine(f"torch-{chosen.type}-fp32", _runner(loaded, chosen.type), loaded.description, loaded.golden)


def pair(fp32: Seen, engine: Seen) -> Pair:
    """What both saw in one picture."""
    return Pair(tuple(fp32.probabilities.tolist()), tuple(engine.probabilities.tolist()), _correlation(fp32.heat_map, engine.heat_map))


def compare(pairs: Sequence[Pair], passes: Passes) -> Parity:
    """The least agreement over all pictures."""
    return Parity(
        pictures=len(pairs),
        verdicts=sum(_same_verdict(one, passes) for one in pairs),
        probability=max((max(abs(was - now) for was, now in zip(one.fp32, one.engine, strict=True)) for one in pairs), default=0.0),
        heat_map=min((one.heat_map for one in pairs), default=1.0),
    )


def _runner(loaded: LoadedWeights, device: str) -> Runner:
    if device == "cpu":
        return TorchCpu(loaded.network)
    from station.vision.cuda import Cuda  # noqa: PLC0415  only where there is a CUDA device

    return Cuda(loaded.network, "fp32")


def _same_verdict(one: Pair, passes: Passes) -> bool:
    same_class = one.fp32.index(max(one.fp32)) == one.engine.index(max(one.engine))
    return same_class and passes(one.fp32) == passes(one.engine)


def _correlation(was: npt.NDArray[np.uint8], now: npt.NDArray[np.uint8]) -> float:
    if was.std() == 0 or now.std() == 0:
        return float(np.array_equal(was, now))
    return float(np.corrcoef(was.ravel(), now.ravel())[0, 1])
