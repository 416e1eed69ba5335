"""The three methods the paper compares itself with (sec. 3.3), as `compare.Method`s: honest, small, on the processor.

The paper names them and gives no settings; for GLCM + MLP it cites its reference 17, which its own introduction describes as another
method. All settings here are readings, chosen before any result was seen and not tuned to a data set. What can be computed of a picture
without labels is computed once, when a method is made. Pictures come as RGB8 (height, width, 3), in the order of `Dataset.samples`.
"""

import warnings
from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt
import torch
from skimage.feature import graycomatrix, graycoprops
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from station.training.compare import Integers
from station.vision.dvgg16 import signed_sqrt_l2
from station.vision.preprocess import Pixels

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.uint8] | Floats


class GlcmMlp:
    """Texture statistics, then a small neural network: features of grey-level co-occurrence matrices (Haralick 1973), scaled, to an MLP.

    Reading: the picture in grey, a longer side above 448 px reduced to 448; 32 grey levels over the whole range of 8 bits; one symmetric
    matrix for each of 4 directions at distances 1, 2 and 4 px, and 6 properties of each: 72 features. One hidden layer of 64, Adam.
    """

    name = "GLCM + MLP"
    LARGEST_PX = 448
    LEVELS = 32
    DISTANCES_PX = (1, 2, 4)
    ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
    PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")

    def __init__(self, pictures: Iterable[Pixels], seed: int) -> None:
        self._features = np.stack([self._describe(rgb) for rgb in pictures])
        self._seed = seed

    def fit_predict(self, training: Integers, labels: Integers, held_back: Integers) -> Integers:
        """As `compare.Method`."""
        model = make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=500, random_state=self._seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 500 epochs are where it stops, settled or not
            model.fit(self._features[training], labels)
        return np.asarray(model.predict(self._features[held_back]), dtype=np.int64)

    def _describe(self, rgb: Pixels) -> Floats:
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        scale = self.LARGEST_PX / max(grey.shape)
        if scale < 1:
            size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        quantised = (grey // (256 // self.LEVELS)).astype(np.uint8)
        matrices = graycomatrix(  # type: ignore[no-untyped-call]
            quantised, self.DISTANCES_PX, self.ANGLES, self.LEVELS, symmetric=True, normed=True
        )
        properties = [graycoprops(matrices, name) for name in self.PROPERTIES]  # type: ignore[no-untyped-call]
        return np.array(properties, dtype=np.float32).ravel()


class GcForest:
    """gcForest (Zhou and Feng, "Deep Forest", 2017): forests over sliding windows, then a cascade of forests.

    A forest turns what it sees into a class vector, the shares its trees give to each class. The class vector of a training picture comes
    from a forest that was grown without that picture (3 parts); another picture's is the mean of the three forests'.

    Reading: grey pictures of 64 x 64; windows of 8 and 16 px, 8 px apart; levels are added while the accuracy over the training pictures'
    own class vectors rises. Departures, for time: no windows of a sixteenth of the side; 50 trees a forest in place of 500; 2 random and 2
    completely random forests a level in place of 4 and 4; a window forest is grown from at most 10000 windows, drawn at random; every level
    sees the class vectors of both window sizes, which in the original take turns.
    """

    name = "gcForest"
    SIDE_PX = 64
    WINDOWS_PX = (8, 16)
    STRIDE_PX = 8
    TREES = 50
    PARTS = 3
    MOST_WINDOWS = 10_000

    def __init__(self, pictures: Iterable[Pixels], seed: int) -> None:
        size = (self.SIDE_PX, self.SIDE_PX)
        grey = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in pictures)
        small = np.array([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in grey], dtype=np.uint8)
        self._scans = [_windows(small, window, self.STRIDE_PX) for window in self.WINDOWS_PX]
        self._seed = seed

    def fit_predict(self, training: Integers, labels: Integers, held_back: Integers) -> Integers:
        """As `compare.Method`."""
        rng = np.random.default_rng(self._seed)
        classes, targets = np.unique(labels, return_inverse=True)
        scanned = [self._class_vectors(scan[training], targets, scan[held_back], 1, rng) for scan in self._scans]
        known = np.concatenate([own.reshape(len(training), -1) for own, _ in scanned], axis=1)
        new = np.concatenate([other.reshape(len(held_back), -1) for _, other in scanned], axis=1)
        return classes[self._cascade(known, targets, new, rng)]

    def _cascade(self, known: Floats, targets: Integers, new: Floats, rng: np.random.Generator) -> Integers:
        """The classes of `new` (m, d) by the last level that was better than the one before it."""
        below_known, below_new = known[:, :0], new[:, :0]
        best, answers = -1.0, np.zeros(len(new), dtype=np.int64)
        while True:
            seen, asked = np.hstack([known, below_known]), np.hstack([new, below_new])
            own, other = self._class_vectors(seen[:, None], targets, asked[:, None], 2, rng)  # (n, 1, forests, classes)
            accuracy = float((own.mean(axis=(1, 2)).argmax(axis=1) == targets).mean())
            if accuracy <= best:
                return answers
            best, answers = accuracy, other.mean(axis=(1, 2)).argmax(axis=1)
            below_known, below_new = own.reshape(len(own), -1), other.reshape(len(other), -1)

    def _class_vectors(
        self, known: Numbers, targets: Integers, new: Numbers, pairs: int, rng: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Windows (n, w, d) and (m, w, d) -> class vectors float32 (n, w, forests, classes) and (m, w, forests, classes)."""
        parts = min(self.PARTS, len(targets))
        part = _parts(targets, parts, rng)
        count = int(targets.max()) + 1
        own = np.zeros((*known.shape[:2], 2 * pairs, count), dtype=np.float32)
        other = np.zeros((*new.shape[:2], 2 * pairs, count), dtype=np.float32)
        for forest in range(2 * pairs):
            for number in range(parts):
                rest, held = part != number, part == number
                grown = self._grown(known[rest], targets[rest], completely_random=bool(forest % 2), rng=rng)
                own[np.ix_(held, range(own.shape[1]), [forest], grown.classes_)] = _shares(grown, known[held])[:, :, None]
                other[:, :, forest, grown.classes_] += _shares(grown, new) / parts
        return own, other

    def _grown(
        self, windows: Numbers, targets: Integers, completely_random: bool, rng: np.random.Generator
    ) -> RandomForestClassifier | ExtraTreesClassifier:
        """A forest grown from some of the windows (n, w, d), each of its picture's class."""
        chosen = rng.permutation(windows.shape[0] * windows.shape[1])[: self.MOST_WINDOWS]
        seed = int(rng.integers(2**31))
        forest = (
            ExtraTreesClassifier(self.TREES, max_features=1, random_state=seed)
            if completely_random
            else RandomForestClassifier(self.TREES, random_state=seed)
        )
        return forest.fit(windows.reshape(-1, windows.shape[2])[chosen], targets.repeat(windows.shape[1])[chosen])


class Bcnn:
    """The bilinear CNN with one VGG16 a side (Lin et al. 2015): descriptor, signed square root, L2 norm, linear classifier.

    Departure: the trunk is held, as in phase 1, and both sides are the same one. Its descriptor phi = sum_i x(i) x(i)^T is then part of
    the second moments of the trunk's outputs. The classifier is a linear support vector machine, one against one, which needs only the
    pictures' inner products, (n, n), in place of 262144 weights a class. Its C of 10000 is next to a hard margin: with so many numbers a
    picture, classes are separable, and where all pictures show the same part their inner products differ by less than 0.01.
    """

    name = "BCNN"

    def __init__(self, moments: Tensor) -> None:
        """From `moments.moments` of every picture, float32 (n, C + 1, C + 1); for the time of the call as much memory is used again."""
        u = torch.empty(len(moments), (moments.shape[1] - 1) ** 2)
        for row, m in zip(u, moments, strict=True):  # the last row and column of m belong to the constant 1
            row[:] = signed_sqrt_l2(m[None, :-1, :-1]).flatten()
        self._kernel: npt.NDArray[np.float64] = (u @ u.T).double().numpy()

    def fit_predict(self, training: Integers, labels: Integers, held_back: Integers) -> Integers:
        """As `compare.Method`."""
        model = SVC(C=10_000.0, kernel="precomputed")
        model.fit(self._kernel[np.ix_(training, training)], labels)
        return np.asarray(model.predict(self._kernel[np.ix_(held_back, training)]), dtype=np.int64)


def _windows(pictures: npt.NDArray[np.uint8], side: int, stride: int) -> npt.NDArray[np.uint8]:
    """Pictures (n, h, w) -> their square windows, flattened: (n, windows, side * side)."""
    views = np.lib.stride_tricks.sliding_window_view(pictures, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    return np.asarray(views.reshape(len(pictures), -1, side * side), dtype=np.uint8)


def _parts(targets: Integers, count: int, rng: np.random.Generator) -> Integers:
    """A number 0..count-1 for each picture, by chance, every class spread evenly over the parts."""
    order = rng.permutation(len(targets))
    part = np.empty(len(targets), dtype=np.int64)
    part[order[np.argsort(targets[order], kind="stable")]] = np.arange(len(targets)) % count
    return part


def _shares(forest: RandomForestClassifier | ExtraTreesClassifier, windows: Numbers) -> Floats:
    """Class vectors of windows (n, w, d): float32 (n, w, classes the forest knows)."""
    shares = forest.predict_proba(windows.reshape(-1, windows.shape[2]))
    return np.asarray(shares, dtype=np.float32).reshape(*windows.shape[:2], -1)
