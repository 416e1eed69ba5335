"""From the gauges of many frames to what has drifted: lamp, lens or mounting against what a recipe's first good parts showed.

Parts differ from one another, so one frame says little: the last `WINDOW` frames are compared with the `TAUGHT` that the reference was
learnt from, and a difference counts when it is both large enough to matter and larger than chance makes of parts as varied as those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isnan, log, sqrt

import numpy as np

from station.vision.gauges import CELL_PX, Gauges, Profile

TAUGHT = 32
WINDOW = 24

LIMITS = {"mean_level": (0.05, 7.0), "bright_level": (0.05, 5.5), "focus": (0.06, 6.5), "saturated": (0.1, 7.0)}
"""Drift is beyond the first number, a relative change (of `saturated` an absolute one), and beyond the second, in standard errors of the
difference between the two means. So many errors because the spread is known from few parts and the reference stays for good: over 2,000
parts chance reaches four to five. Fewest where a tenth of the light has to be noticed."""
_ERROR = sqrt(1 / TAUGHT + 1 / WINDOW)
"""That standard error by the spread from part to part."""

SHIFT_PX = 1.2
"""A shift beyond this counts."""
_REACH = 16
"""Shifts of up to so many cells either way are looked for."""
_GROUPS = 4
_SOFT = np.array([0.25, 0.5, 0.25], np.float32)
_SMALLEST_EDGE = 0.5
"""Grey levels: the sensor's own pattern makes smaller ones, and does not move with the picture."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What one gauge is on good parts, logarithmic but for `saturated`."""

    centre: float
    spread: float


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the frames of `TAUGHT` good parts had in common.

    Attributes:
        usual: by the gauge's name, as in `LIMITS`.
        edges: along x and along y, see `_edges`; None where too little stands still from part to part to tell a shift by.
        sizes: lengths of the profiles, by which a frame of another size is told.
    """

    usual: Mapping[str, Usual]
    edges: tuple[Profile | None, Profile | None]
    sizes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Drift:
    """The last frames against the reference.

    Attributes:
        change: by the gauge's name, of the middle one of the frames: relative, -0.1 is a tenth less; of `saturated` absolute.
        beyond: how far each is from alarming: 1 and more is drift.
        shift_px: along x and y, to the right and down positive; None where it cannot be told, NaN where it was told before and no longer.
    """

    change: Mapping[str, float]
    beyond: Mapping[str, float]
    shift_px: tuple[float | None, float | None]


def learn(frames: Sequence[Gauges]) -> Reference:
    """The reference that the frames of good parts set."""
    values = {name: np.array([_value(one, name) for one in frames]) for name in LIMITS}
    usual = {name: Usual(float(of.mean()), float(of.std(ddof=1))) for name, of in values.items()}
    along = [np.stack([one.profile_x for one in frames]), np.stack([one.profile_y for one in frames])]
    return Reference(usual, (_steady_edges(along[0]), _steady_edges(along[1])), (along[0].shape[1], along[1].shape[1]))


def compare(reference: Reference, frames: Sequence[Gauges]) -> Drift:
    """What the last frames show, judged together; they are of the reference's size."""
    change, beyond = {}, {}
    for name, (floor, errors) in LIMITS.items():
        usual = reference.usual[name]
        limit = max(floor, errors * _ERROR * usual.spread)
        values = np.array([_value(one, name) for one in frames]) - usual.centre
        # No part counts for more than two and a half limits: a few odd ones are no drift.
        beyond[name] = abs(float(np.clip(values, -2.5 * limit, 2.5 * limit).mean())) / limit
        middle = float(np.median(values))
        change[name] = middle if name == "saturated" else exp(middle) - 1
    along = ([one.profile_x for one in frames], [one.profile_y for one in frames])
    shifts = [None if edges is None else _shift_px(_edges(np.stack(of)), edges) for of, edges in zip(along, reference.edges, strict=True)]
    for axis, shift_px in zip(("shift_x", "shift_y"), shifts, strict=True):
        if shift_px is not None:
            beyond[axis] = _REACH * CELL_PX / SHIFT_PX if isnan(shift_px) else abs(shift_px) / SHIFT_PX
    return Drift(change, beyond, (shifts[0], shifts[1]))


def _value(one: Gauges, name: str) -> float:
    value = float(getattr(one, name))
    return value if name == "saturated" else log(max(value, 0.01))


def _edges(profiles: Profile) -> Profile:
    """What stands still in profiles (parts, cells): each cell's median by its own spread, 0.8 of it taken off as chance, -3..3.

    A part that lies a little elsewhere each time leaves nothing behind; a nest, a mask or a part that is clamped does.
    """
    ordered = np.sort(profiles, axis=0)
    median = ordered[len(ordered) // 2]
    spread = np.sort(np.abs(profiles - median), axis=0)[len(ordered) // 2]
    score = median / (1.4826 * spread + _SMALLEST_EDGE)
    return np.asarray(np.sign(score) * np.clip(np.abs(score) - 0.8, 0, 3), np.float32)


def _steady_edges(profiles: Profile) -> Profile | None:
    """The edges by which a shift can be told: those that each quarter of the parts shows at the place where the others show them."""
    for group in np.array_split(np.arange(len(profiles)), _GROUPS):
        among_rest = np.ones(len(profiles), np.bool_)
        among_rest[group] = False
        shift, _ = _offset(_edges(profiles[group]), _edges(profiles[among_rest]))
        if abs(shift) * CELL_PX > 1:
            return None
    return _edges(profiles)


def _shift_px(edges: Profile, reference: Profile) -> float:
    shift, alike = _offset(edges, reference)
    return shift * CELL_PX if alike > 0.2 else float("nan")


def _offset(edges: Profile, reference: Profile) -> tuple[float, float]:
    """By how many cells, to a fraction, `edges` lie further along than `reference`, and how alike they then are, -1..1."""
    reach = min(_REACH, len(edges) - 1)
    soft, wanted = (np.convolve(one, _SOFT, "same") for one in (edges, reference))  # so that the peak between two cells is found
    products = np.correlate(np.pad(soft, reach), reference, "valid")
    products /= sqrt(max(float((soft @ edges) * (wanted @ reference)), 1e-9))
    best = int(products.argmax())
    fraction = 0.0
    if 0 < best < len(products) - 1:
        before, here, after = products[best - 1 : best + 2].tolist()
        curve = before - 2 * here + after
        fraction = 0.5 * (before - after) / curve if curve < 0 else 0.0
    return best - reach + fraction, float(products[best])
