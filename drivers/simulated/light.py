"""Light, paint and sensor of the synthetic parts: what a bulb and an iron cylinder are drawn with.

Light is linear, float32, (height, width, 3) in RGB order or (height, width); 0 is black, about 2 and more saturates the sensor. All chance
comes from the generator handed in.
"""

from statistics import NormalDist

import cv2
import numpy as np
import numpy.typing as npt

Light = npt.NDArray[np.float32]
Layer = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_FRACTION_BITS = 4
_BLOOM_SCALE = 4
_FULL_WELL_ELECTRONS = 6000.0
_READ_NOISE_ELECTRONS = 12.0
_NORMAL_OF_BYTE = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)], np.float32)


def cloud(rng: np.random.Generator, height: int, width: int, cell_px: float) -> Light:
    """A smooth field (height, width) of mean 0 and deviation near 0.8, without detail finer than `cell_px`."""
    rows, columns = int(height / cell_px) + 2, int(width / cell_px) + 2
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def wander(rng: np.random.Generator, count: int, cell: float) -> Light:
    """The one-dimensional `cloud`: (count,)."""
    return np.asarray(cloud(rng, 1, count, cell)[0], np.float32)


def bell(at: npt.NDArray[np.floating], centre: float, sigma: float) -> Light:
    """A Gaussian of height 1 over the positions `at`."""
    return np.asarray(np.exp(-0.5 * ((at - centre) / sigma) ** 2), np.float32)


def tint(field: npt.NDArray[np.floating], colour: Light) -> Light:
    """The one-channel light `field` (height, width) in a colour (3,): (height, width, 3)."""
    return np.asarray(cv2.merge([field * channel for channel in colour]), np.float32)


def ribbon(layer: Layer, points: Points, widths_px: npt.ArrayLike, levels: npt.ArrayLike) -> None:
    """Paint an antialiased line through `points` (n, 2) as (x, y), its width and grey level (0..255) given per point or as one number."""
    step = np.gradient(points, axis=0)
    normal = np.stack((-step[:, 1], step[:, 0]), axis=1) / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-6)[:, None]
    half = np.broadcast_to(np.asarray(widths_px, np.float64) / 2, len(points))[:, None]
    left, right = _fixed_point(points + normal * half), _fixed_point(points - normal * half)
    grey = np.broadcast_to(np.clip(levels, 0, 255), len(points))
    quads = np.stack((left[:-1], left[1:], right[1:], right[:-1]), axis=1)
    for quad, level in zip(quads, grey[:-1].tolist(), strict=True):
        cv2.fillConvexPoly(layer, quad, level, cv2.LINE_AA, _FRACTION_BITS)


def patch(layer: Layer, corners: Points, level: float) -> None:
    """Fill the antialiased polygon `corners` (n, 2) as (x, y) with one grey level (0..255)."""
    cv2.fillPoly(layer, [_fixed_point(corners)], (level,), cv2.LINE_AA, _FRACTION_BITS)


def stamp(light: Light, x_px: float, y_px: float, sigma_px: float, colour: Light) -> None:
    """Add a small soft spot of `colour` (3,) to `light` in place; what falls outside is cut off."""
    reach = int(np.ceil(3 * sigma_px))
    left, top = max(0, int(x_px) - reach), max(0, int(y_px) - reach)
    right, bottom = min(light.shape[1], int(x_px) + reach + 2), min(light.shape[0], int(y_px) + reach + 2)
    if left < right and top < bottom:
        spot = np.outer(bell(np.arange(top, bottom), y_px, sigma_px), bell(np.arange(left, right), x_px, sigma_px))
        light[top:bottom, left:right] += spot[..., None] * colour


def soften(layer: Layer, sigma_px: float) -> Light:
    """A painted layer as light 0..1, blurred as a lens of that spot size would."""
    return np.asarray(cv2.GaussianBlur(layer, (0, 0), sigma_px), np.float32) / np.float32(255)


def box_around(layer: npt.NDArray[np.integer | np.floating], margin_px: int) -> tuple[slice, slice]:
    """The rows and columns of all that is painted on `layer`, and `margin_px` around it: drawing only there is what keeps it quick."""
    x, y, width, height = cv2.boundingRect(layer)
    return np.s_[max(0, y - margin_px) : y + height + margin_px, max(0, x - margin_px) : x + width + margin_px]


def expose(light: Light, bloom: float, rng: np.random.Generator) -> Picture:
    """What the camera makes of `light`: stray light (`bloom` of the total), a soft shoulder, shot and read noise; uint8 RGB, read-only."""
    height, width = light.shape[:2]
    small = cv2.resize(light, (width // _BLOOM_SCALE, height // _BLOOM_SCALE), interpolation=cv2.INTER_AREA)
    stray = cv2.resize(cv2.GaussianBlur(small, (0, 0), 5.0), (width, height), interpolation=cv2.INTER_LINEAR)
    signal = np.asarray(cv2.exp(cv2.addWeighted(light, -1.0, stray, -bloom, 0.0)), np.float32)
    np.subtract(1, signal, out=signal)
    deviation = signal * np.float32(1 / _FULL_WELL_ELECTRONS)
    deviation += np.float32((_READ_NOISE_ELECTRONS / _FULL_WELL_ELECTRONS) ** 2)
    cv2.sqrt(deviation, dst=deviation)
    deviation *= cv2.LUT(np.frombuffer(rng.bytes(signal.size), np.uint8).reshape(signal.shape), _NORMAL_OF_BYTE)
    signal += deviation
    picture = cv2.convertScaleAbs(np.maximum(signal, 0, out=signal), alpha=255.0)
    picture.setflags(write=False)
    return np.asarray(picture, np.uint8)


def _fixed_point(points: Points) -> npt.NDArray[np.int32]:
    return np.rint(points * (1 << _FRACTION_BITS)).astype(np.int32)
