"""The golden pictures of a network: those by which its weights file is verified wherever it is loaded."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from station.vision.engine import GOLDEN_TOLERANCE, Engine
from station.vision.preprocess import PIXEL_FORMATS, Pixels, resized_rgb
from station.vision.weights import GOLDEN_LIMIT, Golden


def golden(engine: Engine, pictures: Iterable[tuple[Pixels, str, int]]) -> tuple[Golden, ...]:
    """Of each class the picture that the network is least sure of and yet right about: the first to change when the network does.

    At most `GOLDEN_LIMIT`, and half as many of a network of four trunks, since each costs a frame's time at every load; the least sure
    first. A class of which the network gets no picture right has none. Where there is a choice, the most probable class leads by so much
    that it stays the most probable one for any difference within the tolerance.

    Args:
        pictures: pixels, PFNC pixel format and label, as `dataset.read_pictures` yields them; one at a time is held.

    Raises:
        ValueError, EngineError: as `Engine.see`.
    """
    limit = GOLDEN_LIMIT if engine.description.trunks == 1 else GOLDEN_LIMIT // 2
    best: dict[int, tuple[tuple[bool, float], Golden]] = {}
    for pixels, pixel_format, label in pictures:
        rgb = resized_rgb(pixels, pixel_format, engine.description.input_size)
        rgb8 = np.asarray(rgb >> (PIXEL_FORMATS[pixel_format].bits - 8), dtype=np.uint8)
        probabilities = engine.see(rgb8, "RGB8").probabilities
        rank = _rank(probabilities)
        if probabilities.argmax() == label and (label not in best or rank < best[label][0]):
            best[label] = rank, Golden(rgb8, probabilities)
    return tuple(one for _, one in sorted(best.values(), key=lambda ranked: ranked[0])[:limit])


def _rank(probabilities: npt.NDArray[np.float32]) -> tuple[bool, float]:
    """Lower is better: the least sure of those with a clear lead, then the surest of the others."""
    second, first = np.sort(probabilities)[-2:]
    narrow = bool(first - second <= 2 * GOLDEN_TOLERANCE)
    return narrow, float(-first if narrow else first)
