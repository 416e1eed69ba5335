"""The paper's baselines on textures that anybody can tell apart."""

import cv2
import numpy as np
import pytest
import torch

from station.training.baselines import Bcnn, GcForest, GlcmMlp
from station.training.moments import moments
from station.vision.dvgg16 import NetworkDescription, bilinear_pool, signed_sqrt_l2, vgg16_trunk
from station.vision.preprocess import preprocess

COUNT = 15
LABELS = np.repeat([0, 1, 2], COUNT)
TRAINING, HELD_BACK = np.flatnonzero(np.arange(3 * COUNT) % 5), np.arange(0, 3 * COUNT, 5)


def texture(label: int, seed: int) -> np.ndarray:
    """RGB8 (60, 72, 3): smooth clouds, stripes or grain, of any brightness."""
    rng = np.random.default_rng([label, seed])
    if label == 0:
        surface = cv2.GaussianBlur(rng.normal(0, 150, (60, 72)), (0, 0), 6)
    elif label == 1:
        surface = 30 * np.sin(np.arange(60)[:, None] / 1.5 + rng.uniform(0, 6)) + np.zeros((1, 72))
    else:
        surface = rng.normal(0, 30, (60, 72))
    grey = (surface + rng.uniform(90, 150) + rng.normal(0, 3, (60, 72))).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


PICTURES = [texture(label, seed) for seed, label in enumerate(LABELS)]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(GcForest, "TREES", 12)
    monkeypatch.setattr(GcForest, "MOST_WINDOWS", 800)


@pytest.fixture(scope="module")
def outputs() -> torch.Tensor:
    """What a small trunk of random weights makes of the pictures."""
    description = NetworkDescription(("clouds", "stripes", "grain"), width=1 / 8, input_size=64)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        trunk = vgg16_trunk(description)
        for layer in trunk:
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return trunk(torch.cat([preprocess(rgb, "RGB8", description) for rgb in PICTURES]))


@pytest.fixture(params=["GLCM + MLP", "gcForest", "BCNN"])
def make(request, outputs):
    """Makes the method anew."""
    return {
        "GLCM + MLP": lambda: GlcmMlp(PICTURES, seed=0),
        "gcForest": lambda: GcForest(PICTURES, seed=0),
        "BCNN": lambda: Bcnn(moments(outputs)),
    }[request.param]


def test_it_tells_textures_apart_that_it_never_saw(make):
    answers = make().fit_predict(TRAINING, LABELS[TRAINING], HELD_BACK)
    assert answers.dtype == np.int64
    assert (answers == LABELS[HELD_BACK]).mean() >= 0.8  # by chance 0.33


def test_it_answers_the_same_made_anew_asked_again_or_in_another_order(make):
    method = make()
    first = method.fit_predict(TRAINING, LABELS[TRAINING], HELD_BACK)
    method.fit_predict(HELD_BACK, LABELS[HELD_BACK], TRAINING[:4])
    np.testing.assert_array_equal(method.fit_predict(TRAINING, LABELS[TRAINING], HELD_BACK[::-1]), first[::-1])
    np.testing.assert_array_equal(make().fit_predict(TRAINING, LABELS[TRAINING], HELD_BACK), first)


def test_it_answers_in_the_labels_it_was_told(make):
    answers = make().fit_predict(TRAINING, LABELS[TRAINING] * 3 + 4, HELD_BACK)
    assert (answers == LABELS[HELD_BACK] * 3 + 4).mean() >= 0.8


def test_it_learns_from_two_pictures(make):
    assert set(make().fit_predict(np.array([0, COUNT]), np.array([0, 1]), HELD_BACK)) <= {0, 1}


def test_glcm_contrast_is_the_mean_squared_step_between_neighbours():
    rgb = PICTURES[0]
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(int) // 8
    steps = [(grey[y, x] - grey[y, x + 2]) ** 2 for y in range(60) for x in range(70)]
    contrast = GlcmMlp([rgb], 0)._features.reshape(6, 3, 4)[0]  # property, distance, angle
    assert contrast[1, 0] == pytest.approx(np.mean(steps))


def test_glcm_reduces_a_large_picture_to_448_a_side():
    large = np.random.default_rng(0).integers(0, 256, (300, 896, 3)).astype(np.uint8)
    reduced = cv2.resize(cv2.cvtColor(large, cv2.COLOR_RGB2GRAY), (448, 150), interpolation=cv2.INTER_AREA)
    of_large, of_reduced = GlcmMlp([large, np.repeat(reduced[:, :, None], 3, axis=2)], 0)._features
    np.testing.assert_array_equal(of_large, of_reduced)


def test_glcm_takes_a_picture_of_one_grey():
    assert np.isfinite(GlcmMlp([np.full((40, 40, 3), 128, np.uint8)], 0)._features).all()


def test_forests_do_not_judge_the_pictures_they_grew_from():
    """On noise with labels by chance, a forest that saw the label would know it, and the cascade would grow on that."""
    rng = np.random.default_rng(0)
    noise, targets = rng.random((90, 1, 20)).astype(np.float32), rng.integers(0, 3, 90)
    own, other = GcForest(PICTURES, 0)._class_vectors(noise, targets, noise, 2, rng)
    assert own.shape == other.shape == (90, 1, 4, 3)
    np.testing.assert_allclose(own.sum(axis=3), 1, atol=1e-5)
    np.testing.assert_allclose(other.sum(axis=3), 1, atol=1e-5)
    assert (own.mean(axis=(1, 2)).argmax(axis=1) == targets).mean() < 0.55
    assert (other.mean(axis=(1, 2)).argmax(axis=1) == targets).mean() > 0.9  # these were grown from


def test_levels_are_added_while_the_accuracy_over_the_training_pictures_rises(monkeypatch):
    """Of 4 training pictures the levels know 2, 3 and 3: the second one's answer counts."""
    own = iter([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    answers = iter([[0, 0], [0, 1], [1, 1]])
    widths = []

    def level(_self, known, _targets, _new, pairs, _rng):
        widths.append(known.shape[2])
        known_vectors, new_vectors = (np.eye(2, dtype=np.float32)[next(said)] for said in (own, answers))
        return tuple(vectors[:, None, None].repeat(2 * pairs, axis=2) for vectors in (known_vectors, new_vectors))

    monkeypatch.setattr(GcForest, "_class_vectors", level)
    features = np.zeros((4, 5), np.float32)
    said = GcForest(PICTURES, 0)._cascade(features, np.array([0, 0, 1, 1]), features[:2], np.random.default_rng(0))
    assert said.tolist() == [0, 1]
    assert widths == [5, 5 + 4 * 2, 5 + 4 * 2]


def test_forests_see_windows_of_the_picture():
    scan = GcForest(PICTURES, 0)._scans[1]
    small = cv2.resize(cv2.cvtColor(PICTURES[3], cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA)
    assert scan.shape == (3 * COUNT, 7 * 7, 16 * 16)
    np.testing.assert_array_equal(scan[3, 7 * 2 + 5].reshape(16, 16), small[16:32, 40:56])


def test_bcnn_compares_the_normalised_bilinear_descriptors(outputs):
    u = signed_sqrt_l2(bilinear_pool(outputs, outputs)).flatten(1)
    np.testing.assert_allclose(Bcnn(moments(outputs))._kernel, (u @ u.T).numpy(), atol=1e-5)
