"""What the data say about a recipe's two numbers, when they say nothing, and what is written then."""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from station import inspector, recipe
from station.config import Home
from station.recipe import LocalizationDocument, RecipeError
from station.training import bounds, tune
from station.training.dataset import DatasetError, Sample, read_folder, read_pictures
from station.training.evaluate import Evaluated, evaluate_recipe
from station.training.golden import golden
from station.training.ground_truth import Truth
from station.training.localization import localize
from station.training.look import Look
from station.training.tune import LIMITS, SIGMAS, LimitChoice, ThresholdChoice, Tuned, choose_limit, choose_threshold, tune_recipe
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription, bilinear_pool
from station.vision.parity import reference
from station.vision.preprocess import preprocess, rgb_from_file
from station.vision.segment import Fixed, Otsu, Threshold, covered

CLASSES = ("good", "crack", "stain")
GOOD = ("good",)
SIDE = 32
DARK = np.zeros((SIDE, SIDE), dtype=np.uint8)
_number = itertools.count()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def look(label: str, said: str, probability: float, heat_map: np.ndarray = DARK) -> Look:
    """Another picture each time."""
    rest = (1 - probability) / 2
    probabilities = np.array([probability if name == said else rest for name in CLASSES], dtype=np.float32)
    number = next(_number)
    sample = Sample(Path(f"{number}.png"), CLASSES.index(label), f"{number:064x}")
    return Look(sample, (SIDE, SIDE), probabilities, heat_map)


def good_looks(*probabilities: float) -> list[Look]:
    return [look("good", "good", probability) for probability in probabilities]


def found_looks(count: int) -> list[Look]:
    """Defective pictures that no limit lets pass."""
    return [look("crack", "stain", 0.9) for _ in range(count)]


def limit(looks: Sequence[Look], escape: float = 0.01, now: float = 0.9) -> LimitChoice:
    return choose_limit(looks, CLASSES, GOOD, now, escape)


# --- the probability limit


def test_where_nothing_escapes_the_loosest_limit_is_taken() -> None:
    choice = limit([*found_looks(299), *good_looks(0.95, 0.55, 0.45)])
    assert choice["refused"] is None
    assert choice["chosen"] == {
        "minimum_probability": 0.5,
        "escapes": 0,
        "defective": 299,
        "escape_upper": bounds.upper(0, 299),
        "overkill": 1,
        "good": 3,
        "overkill_upper": bounds.upper(1, 3),
    }
    assert (choice["now"]["minimum_probability"], choice["now"]["overkill"]) == (0.9, 2)
    assert [point["minimum_probability"] for point in choice["curve"]] == [*LIMITS]


def test_it_is_loosened_until_one_escape_more_would_break_the_bound() -> None:
    """473 pictures prove 1 % with one escape and not with two."""
    assert bounds.upper(1, 473) <= 0.01 < bounds.upper(2, 473)
    escapes = [look("crack", "good", 0.96), look("stain", "good", 0.84), look("stain", "good", 0.75)]
    choice = limit([*found_looks(470), *escapes, *good_looks(0.9)])
    assert choice["chosen"] is not None
    assert (choice["chosen"]["minimum_probability"], choice["chosen"]["escapes"]) == (0.85, 1)


def test_a_probability_at_the_limit_passes_it() -> None:
    at = float(np.float32(0.5))
    choice = limit([*found_looks(298), look("crack", "good", at), *good_looks(at)])
    assert choice["chosen"] is not None
    assert choice["chosen"]["minimum_probability"] == 0.6
    assert (choice["curve"][-1]["escapes"], choice["curve"][-1]["overkill"]) == (1, 0)


def test_the_proof_survives_the_choice() -> None:
    """The true escape rate at limit L is share (1 - L) / 0.5: at 0.85 and looser it is above the wanted one by a hair."""
    escape, share = 0.1, 0.1001 * 0.5 / 0.15
    rng = np.random.default_rng(7)
    broken = 0
    for _ in range(200):
        sure = rng.uniform(0.5, 1, 100)
        passes = rng.random(100) < share
        looks = [look("crack", "good" if passing else "stain", float(p)) for p, passing in zip(sure, passes, strict=True)]
        chosen = limit([*looks, *good_looks(0.9)], escape)["chosen"]
        broken += chosen is not None and chosen["minimum_probability"] < 0.86
    assert 0 < broken <= 10  # 5 % of 200


def test_one_picture_too_few_is_refused_and_the_number_is_said() -> None:
    choice = limit([*found_looks(298), *good_looks(0.99)])
    assert choice["chosen"] is None
    assert choice["refused"] is not None
    assert "298 defective" in choice["refused"]
    assert "takes 299" in choice["refused"]
    assert "bring 1 more" in choice["refused"]
    assert len(choice["curve"]) == len(LIMITS)


def test_without_a_good_picture_nothing_is_chosen() -> None:
    choice = limit(found_looks(299))
    assert choice["chosen"] is None
    assert "no picture of a good class" in str(choice["refused"])


def test_a_network_that_is_sure_of_its_escapes_cannot_be_helped_by_a_limit() -> None:
    choice = limit([*found_looks(298), look("crack", "good", 1.0), *good_looks(0.99)])
    assert choice["chosen"] is None
    assert "even at 0.9999 1 of 299 defective pictures pass" in str(choice["refused"])
    assert f"{bounds.upper(1, 299):.2%}" in str(choice["refused"])


# --- the heat map's threshold


def truth(size: int = 8) -> Truth:
    mask = np.zeros((SIDE, SIDE), dtype=np.bool_)
    mask[4 : 4 + size, 4 : 4 + size] = True
    return Truth(mask, "mask")


def even(defect: int, rest: int) -> Look:
    """A heat map that is `defect` grey on the true defect and `rest` everywhere else."""
    heat_map = np.full_like(DARK, rest)
    heat_map[4:12, 4:12] = defect
    return look("crack", "crack", 0.9, heat_map)


def haloed(defect: int, halo: int) -> Look:
    """A heat map that is `defect` grey on the true defect and `halo` on twice its width."""
    heat_map = DARK.copy()
    heat_map[4:20, 4:20] = halo
    heat_map[4:12, 4:12] = defect
    return look("crack", "crack", 0.9, heat_map)


def threshold(looks: Sequence[Look], now: LocalizationDocument | None = None) -> ThresholdChoice:
    truths = {one.sample.path: truth() for one in looks}
    return choose_threshold(looks, truths, CLASSES, GOOD, now or LocalizationDocument(method="otsu"))


def test_a_fixed_threshold_is_taken_where_otsu_takes_the_halo_in() -> None:
    choice = threshold([haloed(220, 140) for _ in range(12)])
    assert choice["chosen"] == {"method": "fixed", "sigma": 144, "mean_iou": 1.0}
    assert choice["otsu"] == choice["now"] == {"method": "otsu", "sigma": None, "mean_iou": 0.25}
    assert (choice["gain"], choice["standard_error"]) == (0.75, 0.0)
    assert [point["sigma"] for point in choice["curve"]] == [*SIGMAS]


def test_otsu_is_taken_where_every_picture_needs_its_own_threshold() -> None:
    looks = [even(*greys) for _ in range(6) for greys in ((255, 130), (120, 10))]
    choice = threshold(looks, LocalizationDocument(method="fixed", sigma=131))
    assert choice["chosen"] == choice["otsu"] == {"method": "otsu", "sigma": None, "mean_iou": 1.0}
    assert choice["now"] == {"method": "fixed", "sigma": 131, "mean_iou": 0.5}
    assert choice["gain"] is not None
    assert choice["gain"] < 0


def noisy_looks(seed: int, count: int) -> list[Look]:
    rng = np.random.default_rng(seed)
    greys = rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
    greys[:, 4:12, 4:12] = np.maximum(greys[:, 4:12, 4:12], rng.integers(60, 256, (count, 1, 1), dtype=np.uint8))
    return [look("crack", "crack", 0.9, cv2.GaussianBlur(grey, (7, 7), 0)) for grey in greys]


@pytest.mark.parametrize(("seed", "method"), [(0, "fixed"), (19, "fixed"), (29, "otsu")])
def test_gain_and_standard_error_are_those_of_the_literal_loop(seed: int, method: str) -> None:
    looks = noisy_looks(seed, 13)
    now = LocalizationDocument(method="otsu", min_area_px=5)
    truths = {one.sample.path: truth() for one in looks}

    def iou(one: Look, by: Fixed | Otsu) -> float:
        mean = localize([one], truths, GOOD, CLASSES, by, 5)["mean_iou"]
        assert mean is not None
        return mean

    table = [[iou(one, Fixed(sigma)) for one in looks] for sigma in SIGMAS]
    differences = []
    for picture in range(13):
        others = [other for other in range(13) if other % 5 != picture % 5]
        sums = [sum(row[other] for other in others) for row in table]
        differences.append(table[sums.index(max(sums))][picture] - iou(looks[picture], Otsu()))
    mean = sum(differences) / 13
    error = math.sqrt(sum((difference - mean) ** 2 for difference in differences) / 12 / 13)
    choice = choose_threshold(looks[::-1], truths, CLASSES, GOOD, now)
    assert choice["gain"] == pytest.approx(mean, abs=1e-12)
    assert choice["standard_error"] == pytest.approx(error, abs=1e-12)
    assert choice["chosen"] is not None
    assert choice["chosen"]["method"] == method == ("fixed" if mean > error else "otsu")
    assert choice["chosen"]["mean_iou"] == (max(sum(row) for row in table) / 13 if method == "fixed" else choice["otsu"]["mean_iou"])


def test_only_defective_pictures_with_a_truth_count_and_one_called_good_counts_as_0() -> None:
    known = [*(haloed(220, 140) for _ in range(9)), look("crack", "good", 0.9)]
    fine = good_looks(0.9)
    truths = {one.sample.path: truth() for one in (*known, *fine)}
    choice = choose_threshold([*known, *fine, haloed(220, 140)], truths, CLASSES, GOOD, LocalizationDocument(method="otsu"))
    assert choice["images"] == 10
    assert choice["chosen"] == {"method": "fixed", "sigma": 144, "mean_iou": 0.9}


@pytest.mark.parametrize("count", [0, 9])
def test_fewer_than_ten_pictures_choose_no_threshold(count: int) -> None:
    choice = threshold([haloed(220, 140) for _ in range(count)])
    assert choice["chosen"] is None
    assert choice["refused"] is not None
    assert f"{count} defective pictures with known defects" in choice["refused"]
    assert f"bring {10 - count} more" in choice["refused"]
    assert choice["otsu"]["mean_iou"] == (0.25 if count else None)


# --- the whole way


def picture(name: str, seed: int) -> np.ndarray:
    """BGR 48 x 40: a dark surface, and on it a bright stripe where it is cracked."""
    surface = np.random.default_rng(seed).integers(30, 60, (40, 48, 3), dtype=np.uint8)
    if name == "crack":
        surface[8:32, 8 + seed % 16 : 24 + seed % 16] += 180
    return surface


class Plate:
    """A home with the recipe `plate`, whose network is as sure of its good self-test picture as it is told to be."""

    PARTS = ("good", "crack")

    def __init__(self, folder: Path) -> None:
        self.home, self.data, self.masks = Home(folder / "home"), folder / "data", folder / "masks"
        self.folder = self.home.recipes / "plate"
        for path in (self.home.weights, self.folder, self.masks / "crack"):
            path.mkdir(parents=True)
        for name in self.PARTS:
            (self.data / name).mkdir(parents=True)
            for seed in range(14):
                cv2.imwrite(str(self.data / name / f"{seed}.png"), picture(name, seed))
                if name == "crack":
                    cv2.imwrite(str(self.masks / name / f"{seed}.png"), np.where(picture(name, seed) > 150, 255, 0).astype(np.uint8))
            cv2.imwrite(str(self.folder / f"{name}.png"), picture(name, 99))
        self.samples = read_folder(self.data, self.PARTS).samples

    def make(self, sure: float, trained_on: Sequence[Sample] = ()) -> None:
        network = self._network(sure)
        card = {"split": {"training": [sample.sha256[:16] for sample in trained_on]}}
        engine = reference(weights.LoadedWeights(network, network.description, {}, ""), "cpu")
        sha256 = weights.save(self.home.weights / "plate.safetensors", network, card, golden(engine, read_pictures(self.samples)))
        tests = "".join(f"  - {{image: {name}.png, class: {name}}}\n" for name in self.PARTS)
        (self.folder / "recipe.yaml").write_text(
            f'number: 1\ncamera: {{}}\nnetwork: {{weights: plate.safetensors, sha256: "{sha256}"}}\ngood: [good]\n'
            "minimum_probability: 0.65   # the customer's\ndeadline_ms: 2000\n"
            f"localization: {{method: otsu}}   # by eye\nself_test:\n{tests}"
        )

    def _network(self, sure: float) -> BilinearDVGG16:
        """Random trunks; a linear layer between the two classes' first pictures, as steep as `sure` says."""
        torch.manual_seed(0)
        network = BilinearDVGG16(NetworkDescription(self.PARTS, width=1 / 16, input_size=64, trunks=1, head="none"))
        with torch.no_grad():
            files = [self.data / "good" / "0.png", self.data / "crack" / "0.png", self.folder / "good.png"]
            inputs = torch.cat([preprocess(rgb_from_file(file), "RGB8", network.description) for file in files])
            good, crack, tested = bilinear_pool(*network.features(inputs)).flatten(1)
            direction, middle = good - crack, (good + crack) / 2
            weight = direction * math.log(sure / (1 - sure)) / float(direction @ (tested - middle)) / 2
            seen = 5 * crack * weight.norm() / crack.norm()  # the same in both scores: it decides nothing and lights the heat map up
            network.classifier.weight.copy_(torch.stack([seen + weight, seen - weight]))
            network.classifier.bias.copy_(torch.tensor([-float(weight @ middle), float(weight @ middle)]))
        return network

    def mark(self, threshold: Threshold) -> None:
        """Masks that this threshold finds to the pixel."""
        for seen in evaluate_recipe(self.home, "cpu", "plate", self.data, None, None, lambda _: None).looks:
            if self.PARTS[seen.sample.label] == "crack":
                found = covered(seen.heat_map, seen.size, threshold, 1)
                cv2.imwrite(str(self.masks / "crack" / seen.sample.path.name), found.astype(np.uint8))

    def tune(self, masks: Path | None = None, write: bool = False, escape: float = 0.3) -> Tuned:
        return tune_recipe(self.home, "cpu", "plate", self.data, masks, None, escape, write, lambda _: None)

    @property
    def text(self) -> str:
        return (self.folder / "recipe.yaml").read_text(encoding="utf-8")


@pytest.fixture
def plate(tmp_path: Path) -> Plate:
    return Plate(tmp_path)


def test_without_write_the_recipe_is_only_judged(plate: Plate) -> None:
    plate.make(sure=0.99)
    before = plate.text
    tuned = plate.tune(plate.masks)
    assert plate.text == before
    assert tuned["written"] == []
    assert (tuned["recipe"], tuned["images"], tuned["trained_on"], tuned["copies"], tuned["escape"]) == ("plate", 28, 0, 0, 0.3)
    assert (tuned["refused"], tuned["warnings"]) == ([], [])
    chosen, own = tuned["minimum_probability"]["chosen"], tuned["minimum_probability"]["now"]
    assert chosen is not None
    assert (chosen["minimum_probability"], chosen["escapes"], chosen["defective"]) == (0.5, 0, 14)
    assert (own["minimum_probability"], own["good"]) == (0.65, 14)
    assert json.loads(json.dumps(tuned)) == tuned


def test_with_write_the_recipe_says_what_was_chosen_and_runs(plate: Plate) -> None:
    plate.make(sure=0.99)
    plate.mark(Fixed(96))
    before = plate.text
    tuned = plate.tune(plate.masks, write=True)
    localization = tuned["localization"]
    assert localization is not None
    assert localization["chosen"] == {"method": "fixed", "sigma": 96, "mean_iou": 1.0}
    assert tuned["written"] == ["minimum_probability", "localization"]
    assert plate.text == before.replace("0.65", "0.5").replace("{method: otsu}", "{method: fixed, sigma: 96}")
    inspector.prepare(recipe.load(plate.folder), plate.home.weights, plate.home.engines, "cpu")
    assert plate.tune(plate.masks, write=True)["written"] == []


def test_what_is_refused_is_not_written(plate: Plate) -> None:
    plate.make(sure=0.99)
    before = plate.text
    tuned = plate.tune(write=True, escape=0.01)
    assert tuned["localization"] is None
    assert tuned["refused"] == [tuned["minimum_probability"]["refused"]]
    assert "takes 299" in tuned["refused"][0]
    assert (tuned["written"], plate.text) == ([], before)


def test_pictures_that_were_trained_on_prove_nothing_and_copies_prove_nothing_twice(plate: Plate) -> None:
    plate.make(sure=0.99, trained_on=plate.samples[10:18])
    for name in ("13_again.png", "0_before.png"):
        cv2.imwrite(str(plate.data / "crack" / name), picture("crack", 13))  # neither has a mask
    tuned = plate.tune(plate.masks)
    assert (tuned["images"], tuned["trained_on"], tuned["copies"]) == (20, 8, 2)
    assert tuned["minimum_probability"]["now"]["defective"] == 10
    assert tuned["localization"] is not None
    assert tuned["localization"]["images"] == 10
    assert not any("trained on" in warning for warning in tuned["warnings"])


def test_a_limit_that_the_recipes_own_self_test_fails_leaves_the_file_untouched(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    plate.make(sure=0.7)
    before = plate.text
    escaping = [look("crack", "good", 0.91) for _ in range(10)]

    def with_sure_escapes(*arguments: object) -> Evaluated:
        seen = evaluate_recipe(*arguments)  # type: ignore[arg-type]
        return replace(seen, description=replace(seen.description, classes=CLASSES), looks=(*escaping, *found_looks(10), *good_looks(0.99)))

    monkeypatch.setattr(tune, "evaluate_recipe", with_sure_escapes)
    with pytest.raises(
        RecipeError, match=r"not changed: with \{'minimum_probability': 0.93\} the recipe fails: .*good\.png should be good"
    ):
        plate.tune(write=True)
    assert plate.text == before
    assert sorted(path.name for path in plate.folder.iterdir()) == ["crack.png", "good.png", "recipe.yaml"]


def test_a_recipe_that_somebody_changes_meanwhile_is_left_alone(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    plate.make(sure=0.99)

    def while_somebody_edits(*arguments: object) -> Evaluated:
        seen = evaluate_recipe(*arguments)  # type: ignore[arg-type]
        (plate.folder / "recipe.yaml").write_text(plate.text.replace("2000", "1500"), encoding="utf-8")
        return seen

    monkeypatch.setattr(tune, "evaluate_recipe", while_somebody_edits)
    with pytest.raises(RecipeError, match=r"recipe\.yaml: was changed while it was tuned; tune again"):
        plate.tune(write=True)
    assert "1500" in plate.text
    assert "0.65" in plate.text


def test_an_escape_rate_that_nothing_can_prove_is_refused_before_any_picture_is_read(plate: Plate) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        plate.tune(escape=0.0)


def test_weights_that_do_not_know_their_training_prove_nothing(plate: Plate, monkeypatch: pytest.MonkeyPatch) -> None:
    plate.make(sure=0.99)
    monkeypatch.setattr(tune, "evaluate_recipe", lambda *arguments: replace(evaluate_recipe(*arguments), knows_its_training=False))
    with pytest.raises(DatasetError, match="do not say which pictures"):
        plate.tune(write=True)
