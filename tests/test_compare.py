"""All methods through the same folds, and what is counted of them."""

import json

import cv2
import numpy as np
import pytest

from station.training import bounds, compare, paper_tables
from station.training.baselines import GlcmMlp
from station.training.dataset import DatasetError, read_folder, read_pictures

COUNT = 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Six pictures each of dent, good and scratch; two of good are copies."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(("dent", "good", "scratch")):
        (folder / name).mkdir()
        for seed in range(COUNT):
            rng = np.random.default_rng([label, 0 if (name, seed) == ("good", 1) else seed])
            grain = rng.normal(120, 2 + 12 * label, (40, 48, 3)).clip(0, 255)
            cv2.imwrite(str(folder / name / f"{seed}.png"), grain.astype(np.uint8))
    return read_folder(folder)


class Scripted:
    """Answers from a list, one class a picture, and keeps what it was asked."""

    def __init__(self, answers, name="scripted"):
        self.name = name
        self.answers = np.array(answers)
        self.asked = []

    def fit_predict(self, training, labels, held_back):
        self.asked.append((training.tolist(), labels.tolist(), held_back.tolist()))
        return self.answers[held_back]


DENT, GOOD, SCRATCH = range(3)
# Of 6 dents 4 are seen, 1 is called scratch, 1 escapes; of 6 good ones 4 pass; of 6 scratches 5 are seen and 1 escapes.
ANSWERS = [DENT] * 4 + [SCRATCH, GOOD] + [GOOD] * 4 + [DENT, SCRATCH] + [SCRATCH] * 5 + [GOOD]


def only(comparison):
    (result,) = comparison["methods"]
    return result


def test_every_method_goes_through_the_same_folds(dataset):
    one, other = Scripted(ANSWERS), Scripted([0] * 18, "other")
    comparison = compare.compare(dataset, (one, other), ("good",), 3, seed=1)
    assert [result["method"] for result in comparison["methods"]] == ["scripted", "other"]
    assert len(one.asked) == 3
    assert one.asked == other.asked


def test_every_picture_is_held_back_once_and_its_label_is_not_told(dataset):
    method = Scripted(ANSWERS)
    compare.compare(dataset, (method,), ("good",), 3, seed=1)
    assert sorted(index for _, _, held_back in method.asked for index in held_back) == list(range(18))
    for training, labels, held_back in method.asked:
        assert sorted(training + held_back) == list(range(18))
        assert training == sorted(training)
        assert labels == [dataset.samples[index].label for index in training]
        assert (6 in held_back) == (7 in held_back)  # the copies


def test_the_seed_chooses_the_folds(dataset):
    first, again, other = Scripted(ANSWERS), Scripted(ANSWERS), Scripted(ANSWERS)
    for method, seed in ((first, 1), (again, 1), (other, 2)):
        compare.compare(dataset, (method,), ("good",), 3, seed)
    assert first.asked == again.asked != other.asked


def test_counts_are_pooled_over_the_folds(dataset):
    result = only(compare.compare(dataset, (Scripted(ANSWERS),), ("good",), 3, seed=1))
    assert result["confusion"] == [[4, 1, 1], [1, 4, 1], [0, 1, 5]]
    assert result["accuracy"] == pytest.approx(13 / 18)
    assert result["accuracy_low"] == bounds.lower(13, 18)


def test_the_spread_is_over_the_folds(dataset):
    method = Scripted(ANSWERS)
    result = only(compare.compare(dataset, (method,), ("good",), 3, seed=1))
    truth = np.repeat([0, 1, 2], COUNT)
    shares = [np.mean(method.answers[held_back] == truth[held_back]) for _, _, held_back in method.asked]
    assert len(set(shares)) > 1
    assert result["fold_accuracy"] == pytest.approx(shares)
    assert result["accuracy_mean"] == pytest.approx(np.mean(shares))
    assert (result["accuracy_min"], result["accuracy_max"]) == (min(shares), max(shares))


def test_positive_is_defective(dataset):
    result = only(compare.compare(dataset, (Scripted(ANSWERS),), ("good",), 3, seed=1))
    # A dent called scratch is found all the same: TP 10, FN 2; of the good ones FP 2, TN 4.
    assert result["precision"] == pytest.approx(10 / 12)
    assert result["tpr"] == pytest.approx(10 / 12)
    assert result["fpr"] == pytest.approx(2 / 6)
    assert result["fnr"] == pytest.approx(2 / 12)
    assert result["fdr"] == pytest.approx(2 / 12)
    assert result["f1"] == pytest.approx(10 / 12)
    assert result["escape_upper"] == bounds.upper(2, 12)
    assert result["overkill_upper"] == bounds.upper(2, 6)


def test_what_is_0_of_0_is_none(dataset):
    result = only(compare.compare(dataset, (Scripted([GOOD] * 18),), ("good",), 3, seed=1))
    assert (result["precision"], result["fdr"]) == (None, None)
    assert (result["tpr"], result["fnr"], result["f1"]) == (0, 1, 0)


@pytest.mark.parametrize("good", [(), ("dent", "good", "scratch")])
def test_without_both_good_and_defective_classes_there_is_no_rate(dataset, good):
    result = only(compare.compare(dataset, (Scripted(ANSWERS),), good, 3, seed=1))
    assert {result[key] for key in compare.Rates.__annotations__} == {None}
    assert result["accuracy"] == pytest.approx(13 / 18)


def test_a_comparison_is_plain_data_and_says_what_was_compared(dataset):
    comparison = compare.compare(dataset, (Scripted(ANSWERS),), ("good",), 3, seed=1)
    assert json.loads(json.dumps(comparison)) == comparison
    assert {key: comparison[key] for key in ("images", "classes", "good", "folds", "seed", "data_sha256")} == {
        "images": 18,
        "classes": ["dent", "good", "scratch"],
        "good": ["good"],
        "folds": 3,
        "seed": 1,
        "data_sha256": dataset.sha256,
    }


def test_progress_is_told_a_fold_at_a_time(dataset):
    lines = []
    compare.compare(dataset, (Scripted(ANSWERS),), ("good",), 3, seed=1, progress=lines.append)
    assert [line.partition(",")[0] for line in lines] == [f"scripted: fold {number} of 3" for number in (1, 2, 3)]


def test_a_good_class_that_is_not_there_is_refused(dataset):
    with pytest.raises(DatasetError, match="good: ok is no class of these pictures; they are dent, good, scratch"):
        compare.compare(dataset, (Scripted(ANSWERS),), ("ok",), 3, seed=1)


def test_pictures_of_one_class_cannot_be_compared(dataset):
    alone = type(dataset)(dataset.classes, tuple(sample for sample in dataset.samples if sample.label == GOOD))
    with pytest.raises(DatasetError, match="one class only"):
        compare.compare(alone, (Scripted(ANSWERS),), ("good",), 3, seed=1)


class Short(Scripted):
    """Leaves all but the first picture out."""

    def fit_predict(self, training, labels, held_back):
        return super().fit_predict(training, labels, held_back)[:1]


@pytest.mark.parametrize("method", [Scripted([-1] * 18, "wrong"), Short(ANSWERS, "wrong")])
def test_a_method_that_does_not_answer_is_refused(dataset, method):
    with pytest.raises(ValueError, match="wrong: must answer one of the classes it learned for each of 6 pictures"):
        compare.compare(dataset, (method,), ("good",), 3, seed=1)


def test_a_real_method_goes_through_it(dataset):
    method = GlcmMlp((pixels for pixels, _, _ in read_pictures(dataset.samples)), seed=0)
    alone = only(compare.compare(dataset, (method,), ("good",), 3, seed=1))
    behind = compare.compare(dataset, (Scripted(ANSWERS), method), ("good",), 3, seed=1)["methods"][1]
    assert alone["accuracy"] >= 0.8
    assert {**alone, "seconds": 0} == {**behind, "seconds": 0}


# --- the paper's own numbers


@pytest.mark.parametrize("row", paper_tables.GLASS_BULB_RATES + paper_tables.MAGNETIC_POWDER_RATES, ids=lambda row: row.method)
def test_table_5_prints_the_false_discovery_rate(row):
    assert row.fdr == pytest.approx(1 - row.precision, abs=1.01e-4)
    assert row.fnr == pytest.approx(1 - row.tpr, abs=1e-9)


@pytest.mark.parametrize(("method", "positives"), [("BCNN", {300}), (paper_tables.OURS, {300}), ("GLCM + MLP", set()), ("gcForest", set())])
def test_table_5_fits_these_counts_of_the_magnetic_powder_pictures(method, positives):
    (row,) = (row for row in paper_tables.MAGNETIC_POWDER_RATES if row.method == method)

    def fits(count: int) -> bool:
        found = [tp for tp in range(count + 1) if abs(tp / count - row.tpr) < 5.1e-5]
        return any(abs(tp / (tp + fp) - row.precision) < 5.1e-5 for tp in found for fp in range(301))

    assert {count for count in (240, 300) if fits(count)} == positives


def test_the_baselines_stand_in_every_table_under_their_names():
    for table in paper_tables.ACCURACY:
        assert {"GLCM + MLP", "gcForest", "BCNN", paper_tables.OURS} <= {method for method, _ in table.rows}
        assert all(0.5 < accuracy < 1 for _, accuracy in table.rows)
        assert max(table.rows, key=lambda row: row[1])[0] == paper_tables.OURS
