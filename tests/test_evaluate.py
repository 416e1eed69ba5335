"""What is counted of labelled pictures, and that they go through the very inspector that runs on the line."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from drivers.camera import Frame
from station import replay
from station.config import Home
from station.failsafe import Gate, Part
from station.inspection import Inspection, Verdict
from station.recipe import LocalizationDocument, NetworkDocument, Recipe, RecipeDocument, RecipeError, SelfTestDocument
from station.state import State
from station.training import bounds
from station.training.dataset import DatasetError, Sample, read_folder, read_pictures
from station.training.evaluate import Evaluated, Look, evaluate_recipe, evaluation
from station.training.golden import golden
from station.training.localization import localize
from station.training.look import passed
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription, bilinear_pool, signed_sqrt_l2
from station.vision.parity import reference
from station.vision.preprocess import preprocess, rgb_from_file
from station.vision.segment import Fixed, Otsu

CLASSES = ("good", "worn", "crack", "stain")
GOOD = ("good", "worn")
DARK = np.zeros((4, 4), dtype=np.uint8)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def look(label: int, probabilities: list[float], trained_on: bool = False) -> Look:
    sample = Sample(Path(f"{label}.png"), label, "0" * 64)
    return Look(sample, (8, 8), np.array(probabilities, dtype=np.float32), DARK, trained_on)


def many_looks(seed: int, count: int = 200) -> list[Look]:
    rng = np.random.default_rng(seed)
    return [look(int(rng.integers(4)), rng.dirichlet([0.4] * 4).tolist()) for _ in range(count)]


# --- Eq. 7-11


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("minimum", [0.01, 0.6, 0.95])
def test_every_number_is_that_of_the_literal_loop(seed: int, minimum: float) -> None:
    looks = many_looks(seed)
    tp = fp = tn = fn = right = 0
    confusion = [[0] * 4 for _ in range(4)]
    for one in looks:
        best = max(range(4), key=lambda k: one.probabilities[k])
        confusion[one.sample.label][best] += 1
        right += best == one.sample.label
        is_passed = CLASSES[best] in GOOD and float(one.probabilities[best]) >= minimum
        if CLASSES[one.sample.label] in GOOD:
            tn, fp = tn + is_passed, fp + (not is_passed)
        else:
            fn, tp = fn + is_passed, tp + (not is_passed)
    pr, tpr = tp / (tp + fp), tp / (tp + fn)
    assert evaluation(looks, CLASSES, GOOD, minimum) == {
        "images": 200,
        "classes": list(CLASSES),
        "good": list(GOOD),
        "minimum_probability": minimum,
        "confusion": confusion,
        "accuracy": right / 200,
        "accuracy_low": bounds.lower(right, 200),
        "defective": tp + fn,
        "escapes": fn,
        "overkill": fp,
        "precision": pr,
        "tpr": tpr,
        "fpr": fp / (fp + tn),
        "fnr": fn / (tp + fn),
        "fdr": pytest.approx(1 - pr),
        "f1": pytest.approx(2 * pr * tpr / (pr + tpr)),
        "escape_upper": bounds.upper(fn, tp + fn),
        "overkill_upper": bounds.upper(fp, fp + tn),
        "copies": 0,
        "trained_on": 0,
        "warnings": [],
    }


def test_it_can_be_written_as_json() -> None:
    document = evaluation(many_looks(0), CLASSES, GOOD, 0.9)
    assert json.loads(json.dumps(document)) == document


def test_a_defect_taken_for_another_defect_is_no_escape() -> None:
    document = evaluation([look(2, [0, 0, 0.1, 0.9])], CLASSES, GOOD, 0.5)
    assert (document["accuracy"], document["escapes"], document["tpr"]) == (0.0, 0, 1.0)


def test_a_good_picture_that_is_not_sure_enough_is_overkill_though_its_class_is_right() -> None:
    document = evaluation([look(0, [0.8, 0, 0.2, 0])], CLASSES, GOOD, 0.9)
    assert (document["accuracy"], document["overkill"], document["fpr"]) == (1.0, 1, 1.0)


def test_without_a_defective_picture_nothing_is_known_about_escapes() -> None:
    document = evaluation([look(0, [1, 0, 0, 0])], CLASSES, GOOD, 0.9)
    assert (document["tpr"], document["fnr"], document["escape_upper"]) == (None, None, 1.0)
    assert (document["precision"], document["fdr"], document["f1"]) == (None, None, None)
    assert (document["fpr"], document["accuracy"]) == (0.0, 1.0)


def test_without_a_good_picture_nothing_is_known_about_overkill() -> None:
    document = evaluation([look(2, [0, 0, 1, 0])], CLASSES, GOOD, 0.9)
    assert (document["fpr"], document["overkill_upper"]) == (None, 1.0)
    assert (document["precision"], document["tpr"], document["fnr"], document["f1"]) == (1.0, 1.0, 0.0, 1.0)


def test_where_every_defect_escapes_f1_is_0_and_precision_unknown() -> None:
    document = evaluation([look(2, [1, 0, 0, 0])], CLASSES, GOOD, 0.9)
    assert (document["precision"], document["f1"], document["fnr"], document["escape_upper"]) == (None, 0.0, 1.0, 1.0)


def test_without_a_good_class_nothing_is_ever_passed() -> None:
    document = evaluation(many_looks(1), CLASSES, (), 0.01)
    assert (document["defective"], document["escapes"], document["overkill"]) == (200, 0, 0)
    assert (document["fpr"], document["tpr"]) == (None, 1.0)


def test_no_picture_is_refused() -> None:
    with pytest.raises(DatasetError, match="no picture"):
        evaluation([], CLASSES, GOOD, 0.9)


def test_pictures_that_were_trained_on_are_counted_and_warned_of() -> None:
    document = evaluation([look(0, [1, 0, 0, 0], True), look(2, [0, 0, 1, 0])], CLASSES, GOOD, 0.9)
    assert document["trained_on"] == 1
    assert document["warnings"] == ["1 of 2 pictures were trained on: these numbers say nothing about new parts"]


def gate_passes(one: Look, minimum: float) -> bool:
    """What the real Gate says to the PLC of this look."""
    recipe = Recipe(
        "plate",
        Path("plate"),
        RecipeDocument(
            number=1,
            camera={},
            network=NetworkDocument(weights="w.safetensors", sha256="0" * 64),
            good=GOOD,
            minimum_probability=minimum,
            deadline_ms=1,
            localization=LocalizationDocument(method="otsu"),
            self_test=tuple(SelfTestDocument.model_validate({"image": "a.png", "class": name}) for name in ("good", "crack")),
        ),
        "a" * 64,
    )
    frame = Frame(np.zeros((4, 4), np.uint8), "Mono8", 0, 0, 0)
    index = int(one.probabilities.argmax())
    probability = float(one.probabilities[index])
    seen = Inspection(0, 0, recipe.hash, {}, CLASSES[index], index, probability, (), DARK)
    part = Part(1, 1, "", 0, 1, recipe.hash, recipe, frame, seen, is_simulated=True)
    return Gate().judge(part, State.CONTINUOUS_EXECUTION, 0).verdict is Verdict.PASS


def test_a_picture_is_passed_where_the_gate_would_say_pass() -> None:
    at_the_limit = [look(0, [p, 0, 0, 0]) for p in (0.9, np.nextafter(np.float32(0.9), np.float32(1)), 1.0, 1.0000001)]
    looks = [*many_looks(3), *at_the_limit]
    expected = [gate_passes(one, 0.9) for one in looks]
    assert [passed(one, CLASSES, GOOD, 0.9) for one in looks] == expected
    assert expected[-4:] == [False, True, True, False]  # 0.9 in float32 is below 0.9
    assert 10 < sum(expected) < 190


# --- the composition


def picture(name: str, seed: int) -> np.ndarray:
    """BGR 48 x 40: a grey surface; a scratch is a bright line, a stain a dark disc."""
    rng = np.random.default_rng([seed, len(name)])
    surface = rng.normal(110, 12, (40, 48, 3)).clip(0, 255).astype(np.uint8)
    x, y = (int(value) for value in rng.integers(12, 28, 2))
    if name == "scratch":
        cv2.line(surface, (x - 8, y - 6), (x + 8, y + 6), (250, 240, 230), 3)
    if name == "stain":
        cv2.circle(surface, (x, y), 7, (20, 25, 30), -1)
    return surface


def marked(name: str, seed: int) -> np.ndarray:
    """The mask of that picture."""
    return (np.abs(picture(name, seed).astype(int) - 110).max(axis=2) > 60).astype(np.uint8) * 255


PARTS = ("good", "scratch", "stain")


class Plate:
    """A home with the recipe `plate`, whose network knows the pictures' classes fairly well, and labelled pictures with masks."""

    def __init__(self, folder: Path) -> None:
        self.home, self.data, self.masks = Home(folder / "home"), folder / "data", folder / "masks"
        for name in PARTS:
            (self.data / name).mkdir(parents=True)
            (self.masks / name).mkdir(parents=True)
            for seed in range(8):
                cv2.imwrite(str(self.data / name / f"{seed}.png"), picture(name, seed))
                if name != "good":
                    cv2.imwrite(str(self.masks / name / f"{seed}.png"), marked(name, seed))
        self.samples = read_folder(self.data, PARTS).samples
        (self.home.folder / "weights").mkdir(parents=True)
        (self.home.recipes / "plate").mkdir(parents=True)
        self.network = self._network()
        for name in PARTS:
            cv2.imwrite(str(self.home.recipes / "plate" / f"{name}.png"), picture(name, 0))
        self.write([])

    def _network(self) -> BilinearDVGG16:
        """Random trunks; the classifier knows the mean of the first two pictures of each class."""
        torch.manual_seed(0)
        network = BilinearDVGG16(NetworkDescription(PARTS, width=1 / 16, input_size=32, trunks=1))
        with torch.no_grad():
            means = []
            for label in range(3):
                known = [sample.path for sample in self.samples if sample.label == label][:2]
                inputs = torch.cat([preprocess(rgb_from_file(path), "RGB8", network.description) for path in known])
                means.append(signed_sqrt_l2(bilinear_pool(*network.features(inputs))).flatten(1).mean(dim=0))
            network.classifier.weight.copy_(60 * torch.stack(means))
            network.classifier.bias.copy_(torch.tensor([-30 * float(mean @ mean) for mean in means]))
        return network

    def write(self, training: list[str] | None, localization: str = "{method: fixed, sigma: 110}") -> None:
        card = {} if training is None else {"split": {"training": training}}
        engine = reference(weights.LoadedWeights(self.network, self.network.description, {}, ""), "cpu")
        sha256 = weights.save(self.home.weights / "plate.safetensors", self.network, card, golden(engine, read_pictures(self.samples)))
        tests = "\n".join(f"  - {{image: {name}.png, class: {name}}}" for name in PARTS)
        (self.home.recipes / "plate" / "recipe.yaml").write_text(
            f'number: 1\ncamera: {{}}\nnetwork: {{weights: plate.safetensors, sha256: "{sha256}"}}\ngood: [good]\n'
            f"minimum_probability: 0.5\ndeadline_ms: 2000\nlocalization: {localization}\nself_test:\n{tests}\n"
        )

    def evaluate(self, masks: Path | None = None, boxes: Path | None = None) -> Evaluated:
        return evaluate_recipe(self.home, "cpu", "plate", self.data, masks, boxes, lambda _: None)


@pytest.fixture
def plate(tmp_path: Path) -> Plate:
    return Plate(tmp_path)


def test_what_is_counted_is_what_the_line_answers(plate: Plate) -> None:
    evaluated = plate.evaluate()
    answers = [result for _, result, _ in replay.inspect(plate.home, "cpu", "plate", [sample.path for sample in plate.samples])]
    assert [one.sample for one in evaluated.looks] == list(plate.samples)
    confusion = [[0] * 3 for _ in PARTS]
    escapes = overkill = 0
    for sample, one, answer in zip(plate.samples, evaluated.looks, answers, strict=True):
        assert answer.inspection is not None
        assert one.probabilities.tolist() == list(answer.inspection.scores.values())
        assert np.array_equal(one.heat_map, answer.inspection.heat_map)
        assert one.size == (48, 40)
        confusion[sample.label][answer.inspection.class_index] += 1
        escapes += sample.label != 0 and answer.verdict is Verdict.PASS
        overkill += sample.label == 0 and answer.verdict is not Verdict.PASS
    document = evaluated.evaluation
    assert document["confusion"] == confusion
    assert (document["escapes"], document["overkill"]) == (escapes, overkill)
    assert document["warnings"] == []
    assert "localization" not in document
    assert "unseen" not in document
    assert (evaluated.recipe.name, evaluated.classes, evaluated.truths) == ("plate", PARTS, {})
    assert 3 / 8 < document["accuracy"] < 1, "a network that is always right or lost tests nothing here"


def test_progress_is_told_to_the_last_picture(plate: Plate) -> None:
    told: list[str] = []
    evaluate_recipe(plate.home, "cpu", "plate", plate.data, None, None, told.append)
    assert told == ["picture 20 of 24", "picture 24 of 24"]


@pytest.mark.parametrize(("words", "own"), [("{method: fixed, sigma: 110}", Fixed(110)), ("{method: otsu, min_area_px: 900}", Otsu())])
def test_with_masks_the_recipes_own_method_and_both_are_reported(plate: Plate, words: str, own: Fixed | Otsu) -> None:
    plate.write([], words)
    evaluated = plate.evaluate(plate.masks)
    report = evaluated.evaluation["localization"]
    min_area_px = evaluated.recipe.document.localization.min_area_px
    expected = localize(evaluated.looks, evaluated.truths, ("good",), PARTS, own, min_area_px)
    assert {key: report[key] for key in expected} == expected
    assert own == Fixed(110) or expected != localize(evaluated.looks, evaluated.truths, ("good",), PARTS, own, 1)
    assert len(evaluated.truths) == report["images"] == 16
    assert report["methods"]["fixed"]["sigma"] == (110 if isinstance(own, Fixed) else 128)
    assert (
        report["methods"]["otsu"]["mean_iou"]
        == localize(evaluated.looks, evaluated.truths, ("good",), PARTS, Otsu(), min_area_px)["mean_iou"]
    )
    assert json.loads(json.dumps(evaluated.evaluation)) == evaluated.evaluation


def test_a_missing_mask_is_left_out_and_warned_of(plate: Plate) -> None:
    (plate.masks / "stain" / "3.png").unlink()
    document = plate.evaluate(plate.masks).evaluation
    assert document["localization"]["images"] == 15
    assert any(warning.startswith("1 of 16 defective pictures have no mask") for warning in document["warnings"])


def test_boxes_are_compared_too(plate: Plate, tmp_path: Path) -> None:
    (tmp_path / "boxes").mkdir()
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
    (tmp_path / "boxes" / "4.xml").write_text(f"<annotation><object>{box}</object></annotation>")
    with pytest.raises(DatasetError, match="stands for"):
        plate.evaluate(boxes=tmp_path / "boxes")
    (tmp_path / "boxes" / "stain").mkdir()
    (tmp_path / "boxes" / "4.xml").rename(tmp_path / "boxes" / "stain" / "4.xml")
    evaluated = plate.evaluate(boxes=tmp_path / "boxes")
    assert evaluated.evaluation["localization"]["images"] == 1
    assert [truth.kind for truth in evaluated.truths.values()] == ["boxes"]


def test_masks_and_boxes_together_are_refused(plate: Plate) -> None:
    with pytest.raises(DatasetError, match="one of them"):
        plate.evaluate(plate.masks, plate.masks)


def test_a_copy_is_no_evidence(plate: Plate) -> None:
    first = plate.samples[0].path
    (first.with_name("copy" + first.suffix)).write_bytes(first.read_bytes())
    evaluated = plate.evaluate(plate.masks)
    assert (evaluated.evaluation["images"], evaluated.evaluation["copies"]) == (len(plate.samples), 1)


def test_pictures_that_were_trained_on_are_told_from_those_that_were_not(plate: Plate) -> None:
    known = [sample for number, sample in enumerate(plate.samples) if number % 3 == 0]
    plate.write([sample.sha256[:16] for sample in known])
    evaluated = plate.evaluate(plate.masks)
    document = evaluated.evaluation
    assert evaluated.knows_its_training
    assert [one.sample for one in evaluated.looks if one.trained_on] == known
    assert document["trained_on"] == 8
    assert "8 of 24 pictures were trained on: these numbers say nothing about new parts" in document["warnings"]
    unseen = document["unseen"]
    rest = [one for one in evaluated.looks if not one.trained_on]
    assert unseen is not None
    expected = {**evaluation(rest, PARTS, ("good",), 0.5), "localization": unseen["localization"]}
    assert unseen == expected
    assert (unseen["images"], unseen["trained_on"], unseen["warnings"]) == (16, 0, [])
    assert unseen["localization"]["images"] == sum(one.sample.label != 0 for one in rest)


def test_where_all_were_trained_on_nothing_is_unseen(plate: Plate) -> None:
    plate.write([sample.sha256[:16] for sample in plate.samples])
    document = plate.evaluate().evaluation
    assert document["trained_on"] == 24
    assert document["unseen"] is None


def test_weights_that_do_not_say_what_they_were_trained_on_are_warned_of(plate: Plate) -> None:
    plate.write(None)
    (warning,) = plate.evaluate().evaluation["warnings"]
    assert "do not say which pictures" in warning


def test_a_class_without_pictures_is_evaluated_without_it(plate: Plate) -> None:
    for path in (plate.data / "stain").iterdir():
        path.unlink()
    (plate.data / "stain").rmdir()
    document = plate.evaluate().evaluation
    assert document["images"] == 16
    assert document["confusion"][2] == [0, 0, 0]
    assert any("stain" in warning for warning in document["warnings"])


def test_a_folder_that_is_no_class_of_the_network_is_refused(plate: Plate) -> None:
    (plate.data / "stain").rename(plate.data / "stian")
    with pytest.raises(DatasetError, match="stian"):
        plate.evaluate()


def test_a_recipe_that_is_not_fit_to_run_is_not_evaluated(plate: Plate) -> None:
    with pytest.raises(RecipeError, match="no recipe"):
        evaluate_recipe(plate.home, "cpu", "plank", plate.data, None, None, lambda _: None)
    file = plate.home.weights / "plate.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    recipe = plate.home.recipes / "plate" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(digest, "0" * 64))
    with pytest.raises(RecipeError, match="sha256"):
        plate.evaluate()
