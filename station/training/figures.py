"""The curves of the evaluation's page, as coordinates of the SVG that its template draws."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from station.training import bounds
from station.training.curves import Limit, Roc

Bounded = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a chart.

    Attributes:
        ends: least and greatest value; what is beyond them is drawn on the edge.
        ticks: (value, text).
        scale: a rising function of the value, in whose result the axis is even.
    """

    label: str
    ends: tuple[float, float]
    ticks: tuple[tuple[float, str], ...]
    scale: Callable[[float], float] = float

    def share(self, value: float) -> float:
        """Where the value stands between the ends, 0..1."""
        low, high = self.ends
        start, end = self.scale(low), self.scale(high)
        return (self.scale(min(max(value, low), high)) - start) / (end - start)


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over two axes, in pixels of the plot: x from the left, y from the top.

    Attributes:
        description: in words, for who cannot see it.
        size: (width, height) of the plot without ticks and labels.
        x_ticks, y_ticks: (pixel, text).
        lines, bands: (name, points as SVG writes them); a band is a closed area.
        mark: (x, text) of a vertical line, or None.
    """

    description: str
    size: tuple[int, int]
    x_label: str
    y_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[tuple[str, str], ...]
    bands: tuple[tuple[str, str], ...] = ()
    mark: tuple[float, str] | None = None


def _logit(probability: float) -> float:
    return math.log10(probability / (1 - probability))


_SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
_FIFTHS = tuple((share / 5, f"{share * 20} %") for share in range(6))
_PROBABILITIES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def roc_chart(roc: Roc, fpr: Bounded, tpr: Bounded) -> Chart:
    """The ROC curve, and the station at its limit as a cross as wide and as high as the bounds.

    Args:
        fpr, tpr: (lower bound, rate, upper bound).
    """
    x, y = Axis("false positive rate (overkill)", (0, 1), _FIFTHS), Axis("true positive rate", (0, 1), _FIFTHS)
    cross = (("station", [(value, tpr[1]) for value in fpr]), ("station", [(fpr[1], value) for value in tpr]))
    lines = (("chance", [(0.0, 0.0), (1.0, 1.0)]), ("roc", list(roc.points)), *cross)
    words = (
        f"ROC curve, area {roc.auc:.4f}; at the recipe's limit the false positive rate is {fpr[1]:.4f}, the true positive rate {tpr[1]:.4f}"
    )
    return _chart(words, (300, 300), x, y, lines)


def limit_chart(limits: Sequence[Limit], present: float, defective: int, good: int) -> Chart:
    """Escapes and overkill over the minimum probability, each with the band between its bounds; without the one that has no picture.

    Args:
        present: the recipe's minimum probability, which is marked.
        defective, good: how many pictures of each kind there are.
    """
    probabilities = [limit.minimum_probability for limit in limits]
    escapes = [(limit.escapes, limit.escape_upper) for limit in limits]
    overkill = [(limit.overkill, limit.overkill_upper) for limit in limits]
    lines, bands = [], []
    for name, counted, n in (("escapes", escapes, defective), ("overkill", overkill, good)):
        if n:
            above = [(p, upper) for p, (_, upper) in zip(probabilities, counted, strict=True)]
            below = [(p, bounds.lower(count, n)) for p, (count, _) in zip(probabilities, counted, strict=True)]
            bands.append((name, [*above, *reversed(below)]))
            lines.append((name, [(p, count / n) for p, (count, _) in zip(probabilities, counted, strict=True)]))
    x = Axis("minimum probability", (probabilities[0], probabilities[-1]), tuple((p, f"{p:g}") for p in _PROBABILITIES), _logit)
    y = Axis("share of the pictures (root scale)", (0, 1), tuple((share, f"{100 * share:g} %") for share in _SHARES), math.sqrt)
    words = f"Escapes and overkill over the minimum probability; the recipe's is {present:g}"
    return _chart(words, (515, 260), x, y, lines, bands, (present, f"recipe: {present:g}"))


def _chart(
    description: str,
    size: tuple[int, int],
    x: Axis,
    y: Axis,
    lines: Iterable[tuple[str, list[tuple[float, float]]]],
    bands: Iterable[tuple[str, list[tuple[float, float]]]] = (),
    mark: tuple[float, str] | None = None,
) -> Chart:
    width, height = size

    def across(value: float) -> float:
        return round(width * x.share(value), 1)

    def down(value: float) -> float:
        return round(height * (1 - y.share(value)), 1)

    def drawn(shapes: Iterable[tuple[str, list[tuple[float, float]]]]) -> tuple[tuple[str, str], ...]:
        return tuple((name, " ".join(f"{across(a):g},{down(b):g}" for a, b in points)) for name, points in shapes)

    return Chart(
        description=description,
        size=size,
        x_label=x.label,
        y_label=y.label,
        x_ticks=tuple((across(value), text) for value, text in x.ticks),
        y_ticks=tuple((down(value), text) for value, text in y.ticks),
        lines=drawn(lines),
        bands=drawn(bands),
        mark=(across(mark[0]), mark[1]) if mark else None,
    )
