"""The pictures of an evaluation that somebody should look at first, each beside its heat map."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from station.recipe import Recipe
from station.training.evaluate import Evaluated
from station.training.ground_truth import Mask
from station.training.look import Look, is_defective, passed, said
from station.vision.preprocess import rgb_from_file
from station.vision.segment import Fixed, Otsu, segment

Rgb = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]

WIDEST_PX = 320
TALLEST_PX = 480
_BLACK, _WHITE, _MAGENTA = (0, 0, 0), (255, 255, 255), (255, 0, 255)  # JET has neither white nor magenta


@dataclass(frozen=True, slots=True)
class Case:
    """One picture with what was said about it.

    Attributes:
        kind: what became of it, "right" where nothing is wrong.
        name: CLASS/FILE.
        probability: of the class that was said.
        picture, overlay: JPEG data URIs, at most 320 x 480 px.
    """

    kind: str
    name: str
    true: str
    said: str
    probability: float
    trained_on: bool
    picture: str
    overlay: str


def worst(evaluated: Evaluated, count: int) -> list[Case]:
    """At most `count` pictures: escapes, then other wrong classes, the surest first; then the right classes, the least sure first.

    Raises:
        ValueError: a picture can no longer be read.
    """
    ranked = [(_rank(evaluated, look), index) for index, look in enumerate(evaluated.looks)]
    return [_case(evaluated, evaluated.looks[index]) for _, index in sorted(ranked)[:count]]


def _rank(evaluated: Evaluated, look: Look) -> tuple[int, float]:
    kind, sure = _kind(evaluated, look), float(look.probabilities.max())
    if said(look, evaluated.classes) != evaluated.classes[look.sample.label]:
        return (0 if kind == "escape" else 1), -sure
    return 2, sure


def _kind(evaluated: Evaluated, look: Look) -> str:
    classes, good = evaluated.classes, evaluated.evaluation["good"]
    defective, goes = is_defective(look, classes, good), passed(look, classes, good, evaluated.evaluation["minimum_probability"])
    right = said(look, classes) == classes[look.sample.label]
    if defective and goes:
        return "escape"
    if not defective and not goes:
        return "overkill: not sure enough" if said(look, classes) in good else "overkill"
    if not right:
        return "wrong class: rejected only for its probability" if defective and said(look, classes) in good else "wrong class"
    return "right"


def _case(evaluated: Evaluated, look: Look) -> Case:
    path, class_name = look.sample.path, said(look, evaluated.classes)
    rgb = rgb_from_file(path)
    found = () if class_name in evaluated.evaluation["good"] else _boxes(evaluated.recipe, look)
    truth = evaluated.truths.get(path)
    return Case(
        kind=_kind(evaluated, look),
        name=f"{path.parent.name}/{path.name}",
        true=evaluated.classes[look.sample.label],
        said=class_name,
        probability=float(look.probabilities.max()),
        trained_on=look.trained_on,
        picture=_data_uri(_fitted(rgb, enlarge=False)),
        overlay=_data_uri(overlay(rgb, look.heat_map, found, truth.mask if truth else None)),
    )


def _boxes(recipe: Recipe, look: Look) -> tuple[Box, ...]:
    """What the line would report: the recipe's threshold over the heat map."""
    localization = recipe.document.localization
    threshold = Otsu() if localization.sigma is None else Fixed(localization.sigma)
    return tuple(region.box for region in segment(look.heat_map, look.size, threshold, localization.min_area_px))


def overlay(rgb: Rgb, heat_map: npt.NDArray[np.uint8], boxes: Iterable[Box], truth: Mask | None) -> Rgb:
    """The picture under its heat map (JET: red is 255), boxes in white, the true defects' outline in magenta; at most 320 x 480 px.

    Args:
        rgb: (height, width, 3).
        heat_map: grey 0-255 at any resolution.
        boxes: (x, y, width, height) in pixels of `rgb`.
        truth: (height, width), or None where it is not known.
    """
    small = _fitted(rgb, enlarge=True)  # or else the lines would be as coarse as the picture
    size = (small.shape[1], small.shape[0])
    scale = (size[0] / rgb.shape[1], size[1] / rgb.shape[0])
    colours = cv2.applyColorMap(cv2.resize(heat_map, size, interpolation=cv2.INTER_LINEAR), cv2.COLORMAP_JET)[..., ::-1]
    drawn = cv2.addWeighted(small, 0.55, np.ascontiguousarray(colours), 0.45, 0)
    if truth is not None:
        # Averaged, then anything above 0: a defect that is smaller than a pixel of the small picture stays.
        seen = cv2.resize(truth.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
        outlines, _ = cv2.findContours(seen.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        for colour, thickness in ((_BLACK, 4), (_MAGENTA, 2)):
            cv2.drawContours(drawn, outlines, -1, colour, thickness)
    for x, y, width, height in boxes:
        corner = (round(x * scale[0]), round(y * scale[1]))
        opposite = (round((x + width) * scale[0]) - 1, round((y + height) * scale[1]) - 1)
        for colour, thickness in ((_BLACK, 4), (_WHITE, 2)):
            cv2.rectangle(drawn, corner, opposite, colour, thickness)
    return np.asarray(drawn, dtype=np.uint8)


def _fitted(rgb: Rgb, enlarge: bool) -> Rgb:
    height, width = rgb.shape[:2]
    factor = min(WIDEST_PX / width, TALLEST_PX / height)
    if factor >= 1 and not enlarge:
        return rgb
    size = (max(1, int(width * factor)), max(1, int(height * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR), dtype=np.uint8)


def _data_uri(rgb: Rgb) -> str:
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
