"""The evaluation's page: nothing outside of it is needed, every number stands on it, and nothing is claimed that was not counted."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from station.recipe import Recipe, RecipeDocument
from station.training import bounds, page, paper_tables
from station.training.compare import Comparison
from station.training.curves import Limit, Roc
from station.training.dataset import Sample
from station.training.evaluate import Evaluated, evaluation
from station.training.figures import limit_chart, roc_chart
from station.training.ground_truth import Truth
from station.training.localization import report
from station.training.look import Look
from station.training.page import percent
from station.training.worst_pictures import overlay, worst
from station.vision.dvgg16 import NetworkDescription
from station.vision.segment import Fixed

CLASSES = ("good", "crack", "stain")
NOW = datetime(2026, 3, 4, 14, 5, tzinfo=UTC)
VOID = {"meta", "br", "img", "link", "input", "hr"}
WIDTH, HEIGHT = 64, 48


class Page(HTMLParser):
    """What a browser would find; refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, first: str, start: int = 0) -> list[str]:
        return next(row for row in self.rows[start:] if row and row[0] == first)

    def found(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def captions(self) -> list[str]:
        return [text for text in self.words if "→" in text]


def recipe(good: Sequence[str] = ("good",), minimum_probability: float = 0.9, **changes: Any) -> Recipe:
    document = {
        "number": 7,
        "camera": {},
        "network": {"weights": "bulb.safetensors", "sha256": "ab" * 32},
        "good": list(good) or ["good"],
        "minimum_probability": minimum_probability,
        "deadline_ms": 1000,
        "localization": {"method": "fixed", "sigma": 128},
        "self_test": [{"image": "a.png", "class": (list(good) or ["good"])[0]}, {"image": "b.png", "class": "another"}],
    }
    return Recipe("bulb", Path("bulb"), RecipeDocument.model_validate_json(json.dumps(document | changes)), "cd" * 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "pictures-of-march"
    for name in CLASSES:
        (data / name).mkdir(parents=True)
        cv2.imwrite(str(data / name / "1.png"), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return data


def spot(x: int, y: int) -> np.ndarray:
    """A heat map, a quarter of the picture each way, with a hot square of 16 x 16 px of the picture at (x, y)."""
    heat = np.zeros((HEIGHT // 4, WIDTH // 4), dtype=np.uint8)
    heat[y // 4 : y // 4 + 4, x // 4 : x // 4 + 4] = 255
    return heat


def look(folder: Path, true: str, said: str, sure: float, trained_on: bool = False, classes: Sequence[str] = CLASSES) -> Look:
    rest = (1 - sure) / (len(classes) - 1)
    probabilities = np.array([sure if name == said else rest for name in classes], dtype=np.float32)
    path = folder / CLASSES[classes.index(true)] / "1.png"
    return Look(Sample(path, classes.index(true), "0" * 64), (WIDTH, HEIGHT), probabilities, spot(32, 16), trained_on)


def evaluated(
    looks: Sequence[Look], classes: tuple[str, ...] = CLASSES, good: tuple[str, ...] = ("good",), minimum_probability: float = 0.9
) -> Evaluated:
    document = evaluation(looks, classes, good, minimum_probability)
    if document["trained_on"]:
        unseen = [look for look in looks if not look.trained_on]
        document["unseen"] = evaluation(unseen, classes, good, minimum_probability) if unseen else None
    description = NetworkDescription(classes, width=0.25, input_size=224, trunks=1, pretrained="VGG16 (ImageNet)")
    return Evaluated(recipe(good, minimum_probability), description, tuple(looks), {}, document)


def written(subject: Evaluated, folder: Path, comparison: Comparison | None = None) -> Page:
    file = folder.parent / "evaluation.html"
    page.write(file, subject, folder, comparison, NOW)
    text = file.read_text(encoding="utf-8")
    assert text.lstrip().startswith("<!DOCTYPE html>")
    return Page(text)


def mixed(folder: Path) -> list[Look]:
    """40 good, 30 cracks and 20 stains with 1 escape, 3 overkill (2 unsure, 1 surely called crack), and 2 cracks called stain."""
    return [
        *(look(folder, "good", "good", 0.97) for _ in range(37)),
        *(look(folder, "good", "good", 0.8 + 0.01 * n) for n in range(2)),
        look(folder, "good", "crack", 0.96),
        *(look(folder, "crack", "crack", 0.95) for _ in range(27)),
        *(look(folder, "crack", "stain", 0.6) for _ in range(2)),
        look(folder, "crack", "good", 0.93),
        *(look(folder, "stain", "stain", 0.99) for _ in range(20)),
    ]


def test_the_page_needs_nothing_from_outside(folder: Path) -> None:
    found = written(evaluated(mixed(folder)), folder)
    text = (folder.parent / "evaluation.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|src=\"(?!data:image/jpeg;base64,)", text)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe", "object", "a", "base", "form"})
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on") or name in {"href", "srcset", "action"}]
    assert "default-src 'none'" in found.found("meta")[-1]["content"]
    assert str(folder.parent) not in text
    assert len(found.found("img")) == 48


def test_the_head_names_what_was_judged_by_what(folder: Path) -> None:
    text = written(evaluated(mixed(folder)), folder).text
    for fact in ("bulb, number 7", "cd" * 32, "bulb.safetensors", "ab" * 32, "width 0.25", "224 x 224 px", "trunks: 1", "signed_sqrt_l2"):
        assert fact in text
    for fact in ("VGG16 (ImageNet)", "90 in the folder pictures-of-march: 50 defective, 40 good", "2026-03-04 14:05", "probability of 0.9"):
        assert fact in text


def test_every_number_of_the_evaluation_is_on_the_page(folder: Path) -> None:
    subject = evaluated(mixed(folder))
    document, found = subject.evaluation, written(subject, folder)
    assert document["confusion"] == [[39, 1, 0], [1, 27, 2], [0, 0, 20]]
    for name, counts in zip(CLASSES, document["confusion"], strict=True):
        assert found.row(name) == [name, *map(str, counts), str(sum(counts))]
    for key, name, n, side, bound in (
        ("precision", "PR", 52, "at least", bounds.lower(49, 52)),
        ("tpr", "TPR", 50, "at least", bounds.lower(49, 50)),
        ("fpr", "FPR", 40, "at most", document["overkill_upper"]),
        ("fnr", "FNR", 50, "at most", document["escape_upper"]),
        ("fdr", "FDR", 52, "at most", bounds.upper(3, 52)),
    ):
        assert found.row(name)[1:4] == [percent(document[key]), str(n), f"{side} {percent(bound)}"]  # type: ignore[literal-required]
    assert found.row("F1")[1:3] == [percent(document["f1"]), "53"]
    assert f"Accuracy {percent(document['accuracy'])}, at least {percent(document['accuracy_low'])} (n 90)" in found.text
    assert "Escapes: 1 of 50 defective pictures. Overkill: 3 of 40 good ones." in found.text
    crack = [percent(27 / 30), f"≥ {percent(bounds.lower(27, 30))}", "n 30"]
    assert found.row("crack", found.rows.index(found.row("class")))[1:4] == ["30", "27", " ".join(crack)]


def test_the_bound_of_f1_holds_where_its_pictures_are_binomial() -> None:
    """Of 20 pictures that are defective or not passed each is a hit with 0.8: F1 is then 2 x 0.8 / 1.8, below its bound in 5 % at most."""
    f1 = 2 * 0.8 / 1.8
    hits = np.random.default_rng(1).binomial(20, 0.8, 2000)
    rates = {"precision": None, "tpr": None, "fpr": None, "fnr": None, "fdr": None, "f1": None}
    above = [page._rates(rates, int(tp), 20 - int(tp), 0, 0)[-1].bound > f1 for tp in hits]
    assert 0 < np.mean(above) < 0.06


def test_no_escape_among_306_is_said_to_prove_no_more_than_it_does(folder: Path) -> None:
    looks = [look(folder, "crack", "crack", 0.95)] * 306 + [look(folder, "good", "good", 0.95)] * 40
    text = written(evaluated(looks), folder).text
    assert "Of 306 defective pictures 0 would have passed: the escape rate is below 0.97 % with 95 % confidence." in text
    assert f"Of 40 good pictures 0 would have been rejected: the overkill rate is below {percent(bounds.upper(0, 40))} with" in text
    assert "299 defective pictures without" not in text
    few = written(evaluated(looks[200:]), folder).text
    assert "299 defective pictures without an escape would prove an escape rate below 1 %" in few


def test_pictures_that_were_trained_on_prove_nothing(folder: Path) -> None:
    subject = evaluated([*mixed(folder), *(look(folder, "stain", "stain", 0.99, trained_on=True) for _ in range(60))])
    found = written(subject, folder)
    (warning,) = subject.evaluation["warnings"]
    assert found.text.index(warning) < found.text.index("would have passed")
    assert (
        "Counted over the 90 of 150 pictures that the network was not trained on. Of 50 defective pictures 1 would have passed"
        in found.text
    )
    assert "Of 110 defective" not in found.text
    assert [row[2] for row in found.rows if row[0] == "TPR"] == ["50", "110"]
    assert "Over 90 pictures that the network was not trained on" in found.text
    assert found.row("D-VGG16")[5].endswith("n 90")
    assert "(trained on)" not in " ".join(found.captions()[:6])


def test_where_all_was_trained_on_nothing_is_claimed(folder: Path) -> None:
    subject = evaluated([replace(one, trained_on=True) for one in mixed(folder)])
    found = written(subject, folder)
    assert "The network was trained on every one of these 90 pictures: they prove nothing about new parts." in found.text
    assert "with 95 % confidence" not in found.text
    assert found.row("D-VGG16")[5] == "–"
    assert "all of them trained on: this says nothing about new parts" in found.text


def test_every_warning_stands_before_the_verdict(folder: Path) -> None:
    subject = evaluated(mixed(folder))
    subject.evaluation["warnings"] += ["pictures of different proportions", "class stain: 4 pictures"]
    found = written(subject, folder)
    assert found.text.index("Read before") < found.text.index("different proportions") < found.text.index("stain: 4 pictures")
    assert found.text.index("stain: 4 pictures") < found.text.index("would have passed")
    assert "Read before" not in written(evaluated(mixed(folder)), folder).text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a & b", "{{ 7 * 7 }}", "'); --"])
def test_names_are_shown_as_they_are_and_nothing_of_them_is_run(folder: Path, name: str) -> None:
    classes = ("good", name, "stain")
    looks = [look(folder, "good", name, 0.7, classes=classes), look(folder, name, "stain", 0.6, classes=classes)]
    file = folder / "stain" / f"{name.replace('/', '')}.png"
    (folder / "stain" / "1.png").rename(file)
    looks.append(replace(look(folder, "stain", "good", 0.99, classes=classes), sample=Sample(file, 2, "0" * 64)))
    subject = evaluated(looks, classes)
    subject.evaluation["warnings"].append(f"odd: {name}")
    subject = replace(subject, recipe=recipe(description=name))
    found = written(subject, folder)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script"})
    assert all(attrs["src"].startswith("data:") and "onerror" not in attrs for attrs in found.found("img"))
    assert f"odd: {name}" in found.text
    assert found.row(name)[0] == name
    assert f"stain/{file.name}" in found.text


def test_a_file_name_that_is_no_text_does_not_stop_the_page(folder: Path) -> None:
    file = folder / "crack" / "\udcff.png"
    (folder / "crack" / "1.png").rename(file)
    found = written(evaluated([replace(look(folder, "crack", "crack", 0.95), sample=Sample(file, 1, "0" * 64))]), folder)
    assert "crack/?.png" in found.text


def test_without_a_defective_picture_nothing_is_known_about_escapes(folder: Path) -> None:
    found = written(evaluated([look(folder, "good", "good", 0.95)] * 10), folder)
    assert "There is no defective picture: nothing is known about the escape rate." in found.text
    for name, n in (("PR", "0"), ("TPR", "0"), ("FNR", "0"), ("FDR", "0"), ("F1", "0")):
        assert found.row(name)[1:4] == ["–", n, "–"]
    assert found.row("FPR")[1:4] == ["0.00 %", "10", f"at most {percent(bounds.upper(0, 10))}"]
    assert "A ROC curve needs defective and good pictures" in found.text
    assert [attrs["class"] for attrs in found.found("polyline")] == ["curve overkill"]


def test_without_a_good_class_every_picture_is_a_defect(folder: Path) -> None:
    found = written(evaluated([look(folder, "crack", "crack", 0.95)] * 10, good=()), folder)
    assert "There is no good picture: nothing is known about the overkill rate." in found.text
    assert "no class, from a probability" in found.text
    assert found.row("FPR")[1:4] == ["–", "0", "–"]


@pytest.mark.parametrize("sure", [0.5, 0.95])
def test_one_picture_makes_a_page(folder: Path, sure: float) -> None:
    found = written(evaluated([look(folder, "crack", "good", sure)]), folder)
    said = "1 would have passed: the escape rate may be anything" if sure > 0.9 else "0 would have passed: the escape rate is below 95.00 %"
    assert f"Of 1 defective picture {said}" in found.text
    assert len(found.found("img")) == 2


def test_without_ground_truth_it_is_said_how_to_give_it(folder: Path) -> None:
    text = written(evaluated(mixed(folder)), folder).text
    assert "--masks DIR" in text
    assert "magenta" not in text


def test_localization_stands_with_its_count_and_both_thresholds(folder: Path) -> None:
    subject = evaluated(mixed(folder))
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[16:32, 32:48] = True
    truths = {folder / "crack" / "1.png": Truth(mask, "mask")}
    subject.evaluation["localization"] = measured = report(subject.looks, truths, ("good",), CLASSES, Fixed(128), 1)
    found = written(replace(subject, truths=truths), folder)
    assert (
        f"Pointing game: {percent(29 / 30)}, at least {percent(bounds.lower(29, 30))} "
        f"(n 30; {percent(1.0)} of the 29 that were not called good)" in found.text
    )
    assert found.row("the recipe's: fixed 128")[1:] == ["30", f"{measured['mean_iou']:.3f}", f"{measured['median_iou']:.3f}"]
    assert found.row("otsu")[1:] == [
        "30",
        f"{measured['methods']['otsu']['mean_iou']:.3f}",
        f"{measured['methods']['otsu']['median_iou']:.3f}",
    ]
    assert "magenta" in found.text


def test_all_of_the_papers_numbers_are_there_and_its_fpr_is_called_what_it_is(folder: Path) -> None:
    found = written(evaluated(mixed(folder)), folder)
    start = found.rows.index(found.row("GLCM + MLP"))
    for column, table in enumerate(paper_tables.ACCURACY, 1):
        for method, accuracy in table.rows:
            assert found.row(method, start)[column] == percent(accuracy)
    table_5 = found.rows.index(found.row("D-VGG16")) + 1
    for first, rows in ((1, paper_tables.GLASS_BULB_RATES), (5, paper_tables.MAGNETIC_POWDER_RATES)):
        for row in rows:
            cells = found.row(row.method, table_5)[first : first + 4]
            assert cells == [percent(share) for share in (row.precision, row.tpr, row.fdr, row.fnr)]
    assert "1 - PR. That is the false discovery rate, not Eq. 9" in found.text
    assert '"positive" may mean good' in found.text


def test_without_a_comparison_only_the_own_row_is_filled(folder: Path) -> None:
    subject = evaluated(mixed(folder))
    found = written(subject, folder)
    assert "--baselines" in found.text
    assert found.row("BCNN")[5:] == ["–", "–"]
    low = percent(subject.evaluation["accuracy_low"])
    assert found.row("D-VGG16")[5:] == [f"{percent(subject.evaluation['accuracy'])} ≥ {low} n 90", "this evaluation"]


def method(name: str, confusion: list[list[int]], **rates: float | None) -> dict[str, Any]:
    right, n = sum(row[i] for i, row in enumerate(confusion)), sum(map(sum, confusion))
    undefined = dict.fromkeys(("precision", "tpr", "fpr", "fnr", "fdr", "f1", "escape_upper", "overkill_upper"))
    return {
        "method": name,
        "confusion": confusion,
        "accuracy": right / n,
        "accuracy_low": bounds.lower(right, n),
        "fold_accuracy": [0.8, 0.9],
        "accuracy_mean": 0.85,
        "accuracy_min": 0.8,
        "accuracy_max": 0.9,
        "seconds": 1.0,
        **undefined,
        **rates,
    }


def test_a_comparison_fills_a_row_a_method_with_counts_and_bounds(folder: Path) -> None:
    bcnn = method(
        "BCNN", [[38, 2, 0], [3, 27, 0], [0, 5, 15]], precision=47 / 49, tpr=47 / 50, fpr=2 / 40, fnr=3 / 50, fdr=2 / 49, f1=94 / 99
    )
    methods = [bcnn, method("a newer one", [[40, 0, 0], [0, 30, 0], [0, 0, 20]])]
    comparison: Any = {
        "images": 90,
        "classes": list(CLASSES),
        "good": ["good"],
        "folds": 2,
        "seed": 1,
        "data_sha256": "",
        "methods": methods,
    }
    found = written(evaluated(mixed(folder)), folder, comparison)
    assert "90 pictures in 2 folds (seed 1)" in found.text
    assert found.row("BCNN")[5:] == [f"{percent(80 / 90)} ≥ {percent(bounds.lower(80, 90))} n 90", "80.00 % to 90.00 %"]
    table_5 = found.rows.index(found.row("a newer one")) + 1
    assert found.row("BCNN", table_5)[9:13] == [
        f"{percent(47 / 49)} ≥ {percent(bounds.lower(47, 49))} n 49",
        f"{percent(47 / 50)} ≥ {percent(bounds.lower(47, 50))} n 50",
        f"{percent(2 / 40)} ≤ {percent(bounds.upper(2, 40))} n 40",
        f"{percent(3 / 50)} ≤ {percent(bounds.upper(3, 50))} n 50",
    ]
    assert found.row("a newer one")[1:5] == ["–"] * 4
    assert found.row("D-VGG16")[6] == "this evaluation"


def test_escapes_come_first_then_wrong_classes_then_the_least_sure(folder: Path) -> None:
    subject = evaluated(mixed(folder))
    cases = worst(subject, 24)
    assert [case.kind for case in cases[:6]] == ["escape", "overkill", *["wrong class"] * 2, *["overkill: not sure enough"] * 2]
    assert [round(case.probability, 2) for case in cases[:7]] == [0.93, 0.96, 0.6, 0.6, 0.8, 0.81, 0.95]
    assert len(cases) == 24
    captions = written(subject, folder).captions()
    assert captions[0].strip() == ": crack → good, 0.9300"
    assert len(captions) == 24


def test_a_defect_that_only_the_limit_holds_back_is_named_so(folder: Path) -> None:
    (case,) = worst(evaluated([look(folder, "crack", "good", 0.6)]), 24)
    assert case.kind == "wrong class: rejected only for its probability"


def test_the_overlay_shows_regions_in_white_and_the_truth_in_magenta() -> None:
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[4:12, 4:12] = True
    scale = 320 // WIDTH
    drawn = overlay(grey, spot(32, 16), [(32, 16, 16, 16)], mask)
    assert drawn.shape == (HEIGHT * scale, WIDTH * scale, 3)
    white, magenta = (drawn == 255).all(axis=2), (drawn == (255, 0, 255)).all(axis=2)
    for found, x, y, side in ((white, 32, 16, 16), (magenta, 4, 4, 8)):
        rows, columns = np.nonzero(found)
        assert (columns.min(), columns.max()) == pytest.approx((x * scale, (x + side) * scale), abs=3)
        assert (rows.min(), rows.max()) == pytest.approx((y * scale, (y + side) * scale), abs=3)
    red, blue = drawn[24 * scale, 40 * scale], drawn[40 * scale, 8 * scale]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert not (overlay(grey, spot(32, 16), [], None) == 255).all(axis=2).any()


def test_a_defect_of_one_pixel_in_a_large_picture_is_still_outlined() -> None:
    mask = np.zeros((1500, 2000), dtype=np.bool_)
    mask[701, 903] = True
    drawn = overlay(np.zeros((1500, 2000, 3), np.uint8), spot(0, 0), [], mask)
    assert drawn.shape == (240, 320, 3)
    rows, columns = np.nonzero((drawn == (255, 0, 255)).all(axis=2))
    assert (rows.mean(), columns.mean()) == pytest.approx((701 * 0.16, 903 * 0.16), abs=1.5)


def test_pictures_travel_at_most_320_px_wide_and_tall_ones_480_px_high(folder: Path) -> None:
    cv2.imwrite(str(folder / "good" / "1.png"), np.zeros((1324, 468, 3), np.uint8))
    cv2.imwrite(str(folder / "crack" / "1.png"), np.zeros((600, 800, 3), np.uint8))
    looks = [look(folder, name, name, 0.95) for name in CLASSES]
    pictures = [attrs["src"] for attrs in written(evaluated(looks), folder).found("img")]
    sizes = [
        cv2.imdecode(np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR).shape[:2] for source in pictures
    ]
    assert sizes == [(480, 169), (480, 169), (240, 320), (240, 320), (HEIGHT, WIDTH), (240, 320)]


def test_only_what_the_line_would_report_is_drawn(folder: Path) -> None:
    called_crack, called_good = worst(evaluated([look(folder, "good", name, 0.7) for name in ("crack", "good")]), 2)
    assert (called_crack.said, called_good.said) == ("crack", "good")
    assert called_crack.picture == called_good.picture
    assert called_crack.overlay != called_good.overlay


def test_the_limit_chart_stands_where_its_numbers_say() -> None:
    limits = [Limit(p, escapes, overkill, escapes / 10, overkill / 40, 0.5, 1.0) for p, escapes, overkill in ((0.01, 4, 0), (0.99, 0, 40))]
    chart = limit_chart(limits, 0.5, 10, 40)
    width, height = chart.size
    assert chart.mark == (width / 2, "recipe: 0.5")
    down = round(height * (1 - 0.4**0.5), 1)
    assert chart.lines == (("escapes", f"0,{down:g} {width},{height}"), ("overkill", f"0,{height} {width},0"))
    low = round(height * (1 - bounds.lower(4, 10) ** 0.5), 1)
    half = round(height * (1 - 0.5**0.5), 1)
    assert chart.bands[0] == ("escapes", f"0,{half:g} {width},{half:g} {width},{height} 0,{low:g}")
    beyond = limit_chart(limits, 1.0, 10, 0)
    assert beyond.mark == (width, "recipe: 1")
    assert [name for name, _ in beyond.lines] == ["escapes"]


def test_the_roc_chart_has_the_station_as_a_cross_of_its_bounds() -> None:
    chart = roc_chart(Roc(((0.0, 0.0), (0.0, 0.5), (1.0, 1.0)), 0.75), (0.1, 0.2, 0.3), (0.6, 0.7, 0.9))
    width, height = chart.size
    assert dict(chart.lines)["roc"] == f"0,{height} 0,{height / 2:g} {width},0"
    crosses = [points for name, points in chart.lines if name == "station"]
    assert crosses == [
        " ".join(f"{width * x:g},{height * 0.3:g}" for x in (0.1, 0.2, 0.3)),
        " ".join(f"{width * 0.2:g},{height * (1 - y):g}" for y in (0.6, 0.7, 0.9)),
    ]


def test_everything_that_is_drawn_lies_inside_of_its_chart(folder: Path) -> None:
    found = written(evaluated(mixed(folder), minimum_probability=1.0), folder)
    boxes = [tuple(map(float, attrs["viewbox"].split())) for attrs in found.found("svg")]
    assert len(boxes) == 2
    for tag in ("polyline", "polygon"):
        for attrs in found.found(tag):
            points = [tuple(map(float, point.split(","))) for point in attrs["points"].split()]
            assert points
            assert all(0 <= x <= max(box[2] for box in boxes) - 90 and 0 <= y <= max(box[3] for box in boxes) - 68 for x, y in points)
    assert "recipe: 1" in found.text


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (None, "–"),
        (0.0, "0.00 %"),
        (1.0, "100.00 %"),
        (0.00974, "0.97 %"),
        (0.99999, "99.999 %"),
        (0.00002, "0.002 %"),
        (0.9949, "99.49 %"),
    ],
)
def test_what_is_not_all_is_never_called_100_percent(share: float | None, words: str) -> None:
    assert percent(share) == words


def test_a_picture_that_is_gone_leaves_the_old_page(folder: Path) -> None:
    subject = evaluated(mixed(folder))
    written(subject, folder)
    before = (folder.parent / "evaluation.html").read_bytes()
    (folder / "crack" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"crack/1\.png: cannot be read"):
        written(subject, folder)
    assert (folder.parent / "evaluation.html").read_bytes() == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["evaluation.html", folder.name]
