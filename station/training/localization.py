"""How well the heat map finds the defect: pointing game and intersection over union, over defective pictures whose defects are known.

The pointing game is that of Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016, without its tolerance of 15 px.
Departure from it and from the usual mean IoU: a defective picture that was called good, or whose heat map is dark, is a miss and counts
as 0, since on the line it shows the operator nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np

from station.training.ground_truth import Mask, Truth
from station.training.look import Look, is_defective, said
from station.vision.segment import Fixed, Grey, Otsu, Threshold, covered, segment

SIGMA = 128
"""The fixed threshold that is reported beside Otsu's where the recipe has none: half of the heat map's range."""


class Localization(TypedDict):
    """Over the defective pictures with ground truth; None where there is none.

    Keys:
        images: how many.
        pointing_game: the share of them where the heat map's maximum lies on the defect.
        found: how many of them were not called good.
        pointing_game_found: the share of those alone; what is missing to 1 is the heat map's fault and not the classifier's.
        mean_iou, median_iou: of the segmented regions with the defect, 0..1.
    """

    images: int
    pointing_game: float | None
    found: int
    pointing_game_found: float | None
    mean_iou: float | None
    median_iou: float | None


class OtsuOverlap(TypedDict):
    """What Otsu's threshold reaches."""

    mean_iou: float | None
    median_iou: float | None


class FixedOverlap(OtsuOverlap):
    """What the fixed threshold `sigma` reaches."""

    sigma: int


class Methods(TypedDict):
    """Both thresholds over the same pictures."""

    fixed: FixedOverlap
    otsu: OtsuOverlap


class LocalizationReport(Localization):
    """The recipe's own method, and beside it both."""

    methods: Methods


def report(
    looks: Sequence[Look], truths: Mapping[Path, Truth], good: Sequence[str], classes: Sequence[str], own: Threshold, min_area_px: int
) -> LocalizationReport:
    """`localize` with the threshold `own`, and under `methods` with Otsu's and with the fixed one, `SIGMA` where `own` has none."""
    sigma = own.sigma if isinstance(own, Fixed) else SIGMA
    fixed = localize(looks, truths, good, classes, Fixed(sigma), min_area_px)
    otsu = localize(looks, truths, good, classes, Otsu(), min_area_px)
    methods = Methods(
        fixed=FixedOverlap(sigma=sigma, mean_iou=fixed["mean_iou"], median_iou=fixed["median_iou"]),
        otsu=OtsuOverlap(mean_iou=otsu["mean_iou"], median_iou=otsu["median_iou"]),
    )
    return LocalizationReport(**(fixed if isinstance(own, Fixed) else otsu), methods=methods)


def localize(
    looks: Sequence[Look],
    truths: Mapping[Path, Truth],
    good: Sequence[str],
    classes: Sequence[str],
    threshold: Threshold,
    min_area_px: int,
) -> Localization:
    """Pointing game and IoU over the looks at defective pictures that have a truth (by the path of their picture).

    Where the truth is a mask, the pixels of the regions that `segment` reports are compared with it; where it is boxes, the union of the
    regions' boxes with the union of the true ones.
    """
    compared = [look for look in looks if look.sample.path in truths and is_defective(look, classes, good)]
    if not compared:
        return Localization(images=0, pointing_game=None, found=0, pointing_game_found=None, mean_iou=None, median_iou=None)
    hits = [points_at(look, truths[look.sample.path], classes, good) for look in compared]
    found = sum(said(look, classes) not in good for look in compared)
    overlaps = [overlap(look, truths[look.sample.path], classes, good, threshold, min_area_px) for look in compared]
    return Localization(
        images=len(compared),
        pointing_game=float(np.mean(hits)),
        found=found,
        pointing_game_found=sum(hits) / found if found else None,
        mean_iou=float(np.mean(overlaps)),
        median_iou=float(np.median(overlaps)),
    )


def points_at(look: Look, truth: Truth, classes: Sequence[str], good: Sequence[str]) -> bool:
    """Whether the heat map's maximum, interpolated to the picture, lies on the defect; of equal ones the first in reading order."""
    grey = cv2.resize(look.heat_map, look.size, interpolation=cv2.INTER_LINEAR)
    return said(look, classes) not in good and bool(grey.any() and truth.mask.flat[grey.argmax()])


def overlap(look: Look, truth: Truth, classes: Sequence[str], good: Sequence[str], threshold: Threshold, min_area_px: int) -> float:
    """Intersection over union, 0..1, of what the line would report of this picture with its truth; 0.0 where it was called good."""
    if said(look, classes) in good:
        return 0.0
    of_kind = covered if truth.kind == "mask" else _boxes_covered
    found = of_kind(look.heat_map, look.size, threshold, min_area_px)
    return float(np.count_nonzero(found & truth.mask) / np.count_nonzero(found | truth.mask))


def _boxes_covered(heat_map: Grey, size: tuple[int, int], threshold: Threshold, min_area_px: int) -> Mask:
    """The union of the regions' boxes: bool (height, width)."""
    found = np.zeros((size[1], size[0]), dtype=np.bool_)
    for region in segment(heat_map, size, threshold, min_area_px):
        x, y, width, height = region.box
        found[y : y + height, x : x + width] = True
    return found
