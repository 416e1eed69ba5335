"""`station evaluate --html FILE`: the evaluation as one page that can be read, printed and signed without anything else at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from station.training import bounds, figures, paper_tables
from station.training.compare import Comparison
from station.training.curves import roc, threshold_curve
from station.training.evaluate import Evaluated, Evaluation, evaluation
from station.training.worst_pictures import worst
from station.vision.weights import write_whole

WORST = 24
"""So many pictures are shown at most."""


@dataclass(frozen=True, slots=True)
class Share:
    """A rate as it must be shown: with what it was counted from, and its one-sided 95 % Clopper-Pearson bound.

    Attributes:
        value: None where n is 0.
        side: "at least" or "at most".
    """

    name: str
    value: float | None
    n: int
    side: str
    bound: float


def write(file: Path, evaluated: Evaluated, data: Path, comparison: Comparison | None, now: datetime) -> None:
    """Writes one HTML file that refers to nothing outside of itself: afterwards the whole of it is on the disk, or the old one still is.

    Args:
        data: the folder of the pictures; its name is shown.
        comparison: what other methods reach on the same pictures; None leaves their places empty.
        now: the date the page bears.

    Raises:
        ValueError: a picture that is to be shown can no longer be read.
        OSError: the file's folder is not there or cannot be written to.
    """
    page = _template().render(
        recipe=evaluated.recipe,
        network=evaluated.description,
        data=data.resolve().name,
        now=now,
        all=evaluated.evaluation,
        verdict=_verdict(evaluated.evaluation),
        groups=_groups(evaluated.evaluation),
        charts=_charts(evaluated),
        methods=_methods(evaluated.evaluation, comparison),
        comparison=comparison,
        paper=paper_tables,
        cases=worst(evaluated, WORST),
        has_truth=bool(evaluated.truths),
        proof=bounds.upper(0, 306),
    )
    write_whole(file, page.encode("utf-8", "replace"))


def percent(share: float | None) -> str:
    """Two decimals as in the paper's tables, or more where these would say 0 or 100 of what is neither; a dash for None."""
    if share is None:
        return "–"
    digits = next((digits for digits in range(2, 9) if share in {0, 1} or 0 < round(100 * share, digits) < 100), 9)
    return f"{100 * share:.{digits}f} %"


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "iou": lambda value: "–" if value is None else f"{value:.3f}"}
    return environment.get_template("page.html")


def _unseen(whole: Evaluation) -> Evaluation | None:
    """Over the pictures that the network was not trained on; None where there is no such picture."""
    return whole.get("unseen") if whole["trained_on"] else whole


def _verdict(whole: Evaluation) -> list[str]:
    """What was counted and what it proves, in words; nothing is said about what there was no new picture of."""
    document = _unseen(whole)
    if document is None:
        return [f"The network was trained on every one of these {whole['images']} pictures: they prove nothing about new parts."]
    images, defective, escapes = document["images"], document["defective"], document["escapes"]
    escape_upper = document["escape_upper"]
    sentences = (
        [f"Counted over the {images} of {whole['images']} pictures that the network was not trained on."] if whole["trained_on"] else []
    )
    sentences.append(_sentence(defective, "defective", escapes, "would have passed", "escape rate", escape_upper))
    if defective and not escapes and escape_upper > 0.01:
        sentences.append(f"{bounds.needed(0.01)} defective pictures without an escape would prove an escape rate below 1 %.")
    overkill, overkill_upper = document["overkill"], document["overkill_upper"]
    sentences.append(_sentence(images - defective, "good", overkill, "would have been rejected", "overkill rate", overkill_upper))
    right, accuracy, accuracy_low = int(np.trace(document["confusion"])), percent(document["accuracy"]), percent(document["accuracy_low"])
    sentences.append(
        f"{right} of {images} were given their true class: the accuracy is {accuracy}, at least {accuracy_low} with 95 % confidence."
    )
    return sentences


def _sentence(n: int, kind: str, count: int, what: str, rate: str, upper: float) -> str:
    if not n:
        return f"There is no {kind} picture: nothing is known about the {rate}."
    proven = f"is below {percent(upper)} with 95 % confidence" if upper < 1 else "may be anything up to 100 %"
    return f"Of {n} {kind} picture{'' if n == 1 else 's'} {count} {what}: the {rate} {proven}."


def _groups(whole: Evaluation) -> list[dict[str, Any]]:
    """The tables over the pictures that the network was not trained on, where some were, and then over all of them."""
    unseen = _unseen(whole)
    if unseen is whole:
        return [_group("", whole)]
    groups = [_group(f"The {unseen['images']} pictures that the network was not trained on", unseen)] if unseen else []
    return [*groups, _group(f"All {whole['images']} pictures, trained on or not: these numbers say nothing about new parts", whole)]


def _group(title: str, document: Evaluation) -> dict[str, Any]:
    confusion = np.array(document["confusion"])
    good = [name in document["good"] for name in document["classes"]]
    return {
        "title": title,
        "document": document,
        "good": good,
        "per_class": [_of_class(confusion, label) for label in range(len(good))],
        "rates": _own_rates(document),
        "pointing": _pointing(document),
    }


def _of_class(confusion: Any, label: int) -> tuple[int, Share, Share]:
    """How many of the class were right, its recall and its precision."""
    right, n, answers = int(confusion[label, label]), int(confusion[label].sum()), int(confusion[:, label].sum())
    return right, _at_least("recall", right, n), _at_least("precision", right, answers)


def _at_least(name: str, part: int, n: int) -> Share:
    return Share(name, part / n if n else None, n, "at least", bounds.lower(part, n))


def _pointing(document: Evaluation) -> Share | None:
    found = document.get("localization")
    if found is None or found["pointing_game"] is None:
        return None
    return _at_least("pointing game", round(found["pointing_game"] * found["images"]), found["images"])


def _own_rates(document: Evaluation) -> list[Share]:
    fn, fp = document["escapes"], document["overkill"]
    return _rates(document, document["defective"] - fn, fp, fn, document["images"] - document["defective"] - fp)


def _rates(document: Mapping[str, Any], tp: int, fp: int, fn: int, tn: int) -> list[Share]:
    """Eq. 7-11 and the false discovery rate. F1's bound is that of J = TP / (TP + FP + FN), of which F1 = 2 J / (1 + J) is a function."""
    union = tp + fp + fn
    low = bounds.lower(tp, union)
    return [
        Share("PR", document["precision"], tp + fp, "at least", bounds.lower(tp, tp + fp)),
        Share("TPR", document["tpr"], tp + fn, "at least", bounds.lower(tp, tp + fn)),
        Share("FPR", document["fpr"], fp + tn, "at most", bounds.upper(fp, fp + tn)),
        Share("FNR", document["fnr"], tp + fn, "at most", bounds.upper(fn, tp + fn)),
        Share("FDR", document["fdr"], tp + fp, "at most", bounds.upper(fp, tp + fp)),
        Share("F1", document["f1"], union, "at least", 2 * low / (1 + low)),
    ]


def _methods(whole: Evaluation, comparison: Comparison | None) -> list[dict[str, Any]]:
    """A row a method: the paper's accuracies by table, and what was measured here, None where nothing was.

    Where no comparison measured the recipe's own method, its evaluation does, over pictures that the network was not trained on.
    """
    measured = {method["method"]: _measured(comparison, method) for method in comparison["methods"]} if comparison else {}
    if (unseen := _unseen(whole)) and paper_tables.OURS not in measured:
        measured[paper_tables.OURS] = {"method": unseen, "n": unseen["images"], "rates": _own_rates(unseen)}
    tables = [dict(table.rows) for table in paper_tables.ACCURACY]
    names = list(dict.fromkeys(name for table in tables for name in table if name != paper_tables.OURS))
    names += [paper_tables.OURS, *(name for name in measured if name not in {*names, paper_tables.OURS})]
    printed = [{row.method: row for row in rows} for rows in (paper_tables.GLASS_BULB_RATES, paper_tables.MAGNETIC_POWDER_RATES)]
    return [
        {
            "name": name,
            "paper": [table.get(name) for table in tables],
            "paper_rates": [rows.get(name) for rows in printed],
            "here": measured.get(name),
        }
        for name in names
    ]


def _measured(comparison: Comparison, method: Mapping[str, Any]) -> dict[str, Any]:
    confusion = np.array(method["confusion"])
    good = np.array([name in comparison["good"] for name in comparison["classes"]])
    (tn, fp), (fn, tp) = [[int(confusion[a][:, b].sum()) for b in (good, ~good)] for a in (good, ~good)]
    return {"method": method, "n": comparison["images"], "rates": _rates(method, tp, fp, fn, tn)}


def _charts(evaluated: Evaluated) -> dict[str, Any]:
    """Over the pictures that the network was not trained on, or over all where there is no other."""
    classes, good, minimum = evaluated.classes, evaluated.evaluation["good"], evaluated.evaluation["minimum_probability"]
    unseen = [look for look in evaluated.looks if not look.trained_on]
    looks = unseen or evaluated.looks
    document = evaluation(looks, classes, good, minimum)
    defective = document["defective"]
    curve = roc(looks, classes, good)
    fpr, tpr = [_bounded(document["overkill"], len(looks) - defective), _bounded(defective - document["escapes"], defective)]
    return {
        "n": len(looks),
        "auc": curve.auc if curve else None,
        "roc": figures.roc_chart(curve, fpr, tpr) if curve else None,
        "limits": figures.limit_chart(threshold_curve(looks, classes, good), minimum, defective, len(looks) - defective),
        "trained_on": not unseen,
    }


def _bounded(count: int, n: int) -> tuple[float, float, float]:
    return bounds.lower(count, n), count / n if n else 0.0, bounds.upper(count, n)
