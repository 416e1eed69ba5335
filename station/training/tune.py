"""`station tune`: the probability limit and the heat-map threshold from data, with the evidence, or the reason why there is none.

A picture that the network was trained on proves nothing and is left out; of a picture that is there twice, one counts.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt

from station import inspector
from station.config import Home
from station.recipe import LocalizationDocument, Recipe, RecipeDocument, RecipeError, find
from station.training import bounds, recipe_file
from station.training.dataset import DatasetError
from station.training.evaluate import evaluate_recipe
from station.training.ground_truth import Truth
from station.training.localization import overlap
from station.training.look import Look, is_defective, passed
from station.vision.segment import Fixed, Otsu, Threshold

LIMITS = (0.9999, 0.9995, 0.999, 0.998, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""The candidates for the probability limit, strict to loose: fixed before any picture is looked at, as the proof demands."""
SIGMAS = tuple(range(16, 241, 8))
"""The candidates for the fixed heat-map threshold, grey."""
FEWEST_TRUTHS = 10
"""Pictures with known defects, below which no heat-map threshold is chosen."""
FOLDS = 5


class Limit(TypedDict):
    """What the Gate does to the pictures with a probability limit.

    Keys:
        escapes, defective: defective pictures that pass, of how many.
        overkill, good: good pictures that do not, of how many.
        escape_upper, overkill_upper: the rates that they prove, at 95 % each.
    """

    minimum_probability: float
    escapes: int
    defective: int
    escape_upper: float
    overkill: int
    good: int
    overkill_upper: float


class LimitChoice(TypedDict):
    """The recipe's own limit, the one to take, every candidate, and why there is none to take."""

    now: Limit
    chosen: Limit | None
    curve: list[Limit]
    refused: str | None


class Overlap(TypedDict):
    """What a heat-map threshold reaches: mean IoU, 0..1, None where there is no picture; sigma is None with Otsu's."""

    method: Literal["fixed", "otsu"]
    sigma: int | None
    mean_iou: float | None


class ThresholdChoice(TypedDict):
    """The recipe's own heat-map threshold, the one to take, every candidate, and why there is none to take.

    Keys:
        images: defective pictures with known defects.
        gain, standard_error: of the fixed threshold's IoU over Otsu's, picture by picture, each with the sigma chosen on other pictures.
    """

    images: int
    now: Overlap
    chosen: Overlap | None
    otsu: Overlap
    curve: list[Overlap]
    gain: float | None
    standard_error: float | None
    refused: str | None


class Tuned(TypedDict):
    """What the data say.

    Keys:
        images: pictures that count.
        trained_on, copies: pictures that were left out.
        escape: the wanted bound of the escape rate.
        localization: None without masks and boxes.
        refused: the reasons why something was not chosen.
        warnings: what somebody should look at before believing the rest.
        written: the recipe's keys that were changed.
    """

    recipe: str
    images: int
    trained_on: int
    copies: int
    escape: float
    minimum_probability: LimitChoice
    localization: ThresholdChoice | None
    refused: list[str]
    warnings: list[str]
    written: list[str]


def tune_recipe(
    home: Home,
    device: str,
    name: str,
    data: Path,
    masks: Path | None,
    boxes: Path | None,
    escape: float,
    write: bool,
    progress: Callable[[str], None],
) -> Tuned:
    """What the recipe `name` should be set to, judged by the labelled pictures in `data`; with `write` the recipe is set to it.

    What was refused is never written. The recipe is prepared with the new values, self-test and all, before its file is touched.

    Args:
        escape: the share of the defective parts that may pass at most, above 0 and below 1.

    Raises:
        ValueError: `escape` is out of its range; or as `evaluate_recipe`.
        DatasetError: as `evaluate_recipe`, or the weights do not say what they were trained on.
        RecipeError: as `evaluate_recipe`, or the new values cannot be written; the recipe's file stands as it was.
    """
    bounds.needed(escape)
    evaluated = evaluate_recipe(home, device, name, data, masks, boxes, progress)
    recipe, classes = evaluated.recipe, evaluated.classes
    if not evaluated.knows_its_training:
        raise DatasetError(
            f"recipe {name}: its weights do not say which pictures they were trained on, so none proves anything; train again"
        )
    looks = [look for look in evaluated.looks if not look.trained_on]
    document = recipe.document
    limit = choose_limit(looks, classes, document.good, document.minimum_probability, escape)
    threshold = None
    if masks or boxes:
        threshold = choose_threshold(looks, evaluated.truths, classes, document.good, document.localization, progress)
    tuned = Tuned(
        recipe=recipe.name,
        images=len(looks),
        trained_on=len(evaluated.looks) - len(looks),
        copies=evaluated.evaluation["copies"],
        escape=escape,
        minimum_probability=limit,
        localization=threshold,
        refused=[choice["refused"] for choice in (limit, threshold) if choice and choice["refused"]],
        warnings=evaluated.evaluation["warnings"][len(looks) < len(evaluated.looks) :],  # the first is of those left out here
        written=[],
    )
    if write:
        tuned["written"] = _write(home, device, recipe, limit["chosen"], threshold and threshold["chosen"])
    return tuned


def choose_limit(looks: Sequence[Look], classes: Sequence[str], good: Sequence[str], now: float, escape: float) -> LimitChoice:
    """The loosest probability limit that keeps the escape rate at `escape` or below, at 95 %, though it was chosen on these very pictures.

    Fixed-sequence testing: the candidates are tested from strict to loose, each at the full level, and the first that fails ends it. The
    error of the whole is then that of one test, since a wrong choice needs the first candidate that is truly too loose to pass its test
    (Angelopoulos et al., "Learn then Test: calibrating predictive algorithms to achieve risk control", 2021, on fixed sequence testing).
    Good pictures have no part in the choice, so that their bound holds beside it.

    Args:
        looks: none the network was trained on, no picture twice.
        now: the recipe's own limit.
    """
    defective = [look for look in looks if is_defective(look, classes, good)]
    fine = [look for look in looks if not is_defective(look, classes, good)]

    def limit(probability: float) -> Limit:
        escapes = sum(passed(look, classes, good, probability) for look in defective)
        overkill = sum(not passed(look, classes, good, probability) for look in fine)
        return Limit(
            minimum_probability=probability,
            escapes=escapes,
            defective=len(defective),
            escape_upper=bounds.upper(escapes, len(defective)),
            overkill=overkill,
            good=len(fine),
            overkill_upper=bounds.upper(overkill, len(fine)),
        )

    curve = [limit(probability) for probability in LIMITS]
    reached = [*itertools.takewhile(lambda tested: tested["escape_upper"] <= escape, curve)]
    refused = _limit_refused(curve[0], bool(reached), escape)
    return LimitChoice(now=limit(now), chosen=None if refused else reached[-1], curve=curve, refused=refused)


def _limit_refused(strictest: Limit, reached: bool, escape: float) -> str | None:
    have, need = strictest["defective"], bounds.needed(escape)
    if have < need:
        return (
            f"minimum_probability: {have} defective pictures that the network was not trained on cannot prove an escape rate of at most "
            f"{escape:.2%}: that takes {need} without an escape; bring {need - have} more"
        )
    if not strictest["good"]:
        return (
            "minimum_probability: there is no picture of a good class that the network was not trained on, "
            "so nobody can say what a limit costs; bring some"
        )
    if not reached:
        return (
            f"minimum_probability: even at {strictest['minimum_probability']} {strictest['escapes']} of {have} defective pictures pass: "
            f"an escape rate of up to {strictest['escape_upper']:.2%}, not {escape:.2%}; train a better network"
        )
    return None


def choose_threshold(
    looks: Sequence[Look],
    truths: Mapping[Path, Truth],
    classes: Sequence[str],
    good: Sequence[str],
    now: LocalizationDocument,
    progress: Callable[[str], None] = lambda _: None,
) -> ThresholdChoice:
    """Otsu's threshold, or the fixed one that overlaps the true defects more, where that is sure enough.

    A sigma chosen on some pictures is judged on others, in five folds. Fixed is chosen where its IoU there beats Otsu's by more than one
    standard error of the difference (the rule of Breiman et al., "Classification and Regression Trees", 1984, for the simpler choice),
    with the sigma that is best over all pictures.

    Args:
        looks: none the network was trained on, no picture twice; those at defective pictures with a truth count.
    """
    known = [look for look in looks if look.sample.path in truths and is_defective(look, classes, good)]
    known.sort(key=lambda look: (look.sample.label, look.sample.sha256))  # every fold gets of every class, however files are called

    def overlaps(threshold: Threshold) -> npt.NDArray[np.float64]:
        progress(f"heat map: {threshold}")
        return np.array([overlap(look, truths[look.sample.path], classes, good, threshold, now.min_area_px) for look in known])

    otsu = overlaps(Otsu())
    fixed = np.array([overlaps(Fixed(sigma)) for sigma in SIGMAS])  # (sigmas, pictures)
    own = otsu if now.sigma is None else overlaps(Fixed(now.sigma))
    curve = [_overlap(sigma, of_sigma) for sigma, of_sigma in zip(SIGMAS, fixed, strict=True)]
    choice = ThresholdChoice(
        images=len(known),
        now=_overlap(now.sigma, own),
        chosen=None,
        otsu=_overlap(None, otsu),
        curve=curve,
        gain=None,
        standard_error=None,
        refused=None,
    )
    if len(known) < FEWEST_TRUTHS:
        choice["refused"] = (
            f"localization: {len(known)} defective pictures with known defects that the network was not trained on; "
            f"{FEWEST_TRUTHS} are needed to choose a threshold, bring {FEWEST_TRUTHS - len(known)} more"
        )
        return choice
    differences = _of_others(fixed) - otsu
    gain, standard_error = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(known)))
    choice["gain"], choice["standard_error"] = gain, standard_error
    choice["chosen"] = curve[int(fixed.mean(axis=1).argmax())] if gain > standard_error else choice["otsu"]
    return choice


def _of_others(fixed: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """IoU (sigmas, pictures) -> (pictures,): each picture's with the sigma that is best over the other folds."""
    fold = np.arange(fixed.shape[1]) % FOLDS
    best = [fixed[:, fold != this].mean(axis=1).argmax() for this in range(FOLDS)]
    return np.array([fixed[best[this], picture] for picture, this in enumerate(fold)])


def _overlap(sigma: int | None, overlaps: npt.NDArray[np.float64]) -> Overlap:
    mean = float(overlaps.mean()) if overlaps.size else None
    return Overlap(method="otsu" if sigma is None else "fixed", sigma=sigma, mean_iou=mean)


def _write(home: Home, device: str, recipe: Recipe, limit: Limit | None, threshold: Overlap | None) -> list[str]:
    """Sets what was chosen and is new, once the recipe has proved itself with it; returns the keys."""
    document = _with(recipe.document, limit, threshold)
    changes: dict[str, object] = {}
    if document.minimum_probability != recipe.document.minimum_probability:
        changes["minimum_probability"] = document.minimum_probability
    if document.localization != recipe.document.localization:
        changes["localization"] = document.localization.model_dump(exclude_unset=True, exclude_none=True)
    if not changes:
        return []
    if find(home.recipes, recipe.name).hash != recipe.hash:
        raise RecipeError(f"{recipe.file}: was changed while it was tuned; tune again")
    try:
        inspector.prepare(replace(recipe, document=document), home.weights, home.engines, device)
    except RecipeError as error:
        raise RecipeError(f"{recipe.file}: {', '.join(changes)}: not changed: with {changes} the recipe fails: {error}") from None
    recipe_file.edit(recipe.file, changes)
    return [*changes]


def _with(document: RecipeDocument, limit: Limit | None, threshold: Overlap | None) -> RecipeDocument:
    update: dict[str, object] = {}
    if limit:
        update["minimum_probability"] = limit["minimum_probability"]
    if threshold:
        update["localization"] = document.localization.model_copy(update={"method": threshold["method"], "sigma": threshold["sigma"]})
    return document.model_copy(update=update)
