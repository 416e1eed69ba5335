"""The numbers in the paper's Tables 1-5, to stand beside measured ones. Data only, measured by the paper's authors.

What is odd about Table 5, worked out from its own numbers:

- Every entry of its column "FPR" is 1 - PR, so it is not Eq. 9's false positive rate but the false discovery rate, and is kept as `fdr`.
- It does not say what "positive" is. With 1000 good and 800 defective magnetic powder pictures split 7:3, a test has 300 and 240. The rows
  of BCNN (282 found, 18 not, 1 false) and of the paper's own method (299, 1, 5) fit 300 positives and no count of 240: "positive" may mean
  *good* there. The rows of GLCM + MLP (60, 7, 10 or a multiple) and gcForest (57, 5, 3 or a multiple) fit neither 240 nor 300.
- An FNR of 0 on about 306 defective glass bulbs proves an escape rate below 0.97 % (95 %), not 0.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AccuracyTable:
    """One of Tables 1-4.

    Attributes:
        number: the table's.
        data: the pictures.
        rows: method and its accuracy, 0..1, which the paper calls "average precision".
    """

    number: int
    data: str
    rows: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class RateRow:
    """A row of Table 5, each value 0..1; `fdr` stands under "FPR" there."""

    method: str
    precision: float
    tpr: float
    fdr: float
    fnr: float


OURS = "D-VGG16"
"""How this project calls the method in the paper's rows "Ours"."""

ACCURACY = (
    AccuracyTable(
        1,
        "DAGM 2007",
        (
            ("GLCM + MLP", 0.8168),
            ("gcForest", 0.8667),
            ("BCNN", 0.9557),
            ("FCN", 0.9835),
            ("Zhao", 0.9853),
            (OURS, 0.9949),
        ),
    ),
    AccuracyTable(
        2,
        "NEU",
        (
            ("GLCM + MLP", 0.9861),
            ("gcForest", 0.6156),
            ("BCNN", 0.9856),
            ("BYEC", 0.9630),
            ("Song", 0.9860),
            ("Ren", 0.9921),
            (OURS, 0.9944),
        ),
    ),
    AccuracyTable(
        3,
        "diode glass bulb",
        (
            ("GLCM + MLP", 0.9132),
            ("gcForest", 0.8525),
            ("BCNN", 0.9180),
            (OURS, 0.9987),
        ),
    ),
    AccuracyTable(
        4,
        "fluorescent magnetic powder",
        (
            ("GLCM + MLP", 0.9056),
            ("gcForest", 0.9259),
            ("BCNN", 0.9333),
            (OURS, 0.9913),
        ),
    ),
)
"""Tables 1-4, rows as printed."""

GLASS_BULB_RATES = (
    RateRow("GLCM + MLP", 0.9386, 0.8821, 0.0614, 0.1179),
    RateRow("gcForest", 0.8319, 0.7984, 0.1681, 0.2016),
    RateRow("BCNN", 0.8125, 1.0, 0.1875, 0.0),
    RateRow(OURS, 1.0, 1.0, 0.0, 0.0),
)
"""Table 5, left: diode glass bulb."""

MAGNETIC_POWDER_RATES = (
    RateRow("GLCM + MLP", 0.8571, 0.8955, 0.1428, 0.1045),
    RateRow("gcForest", 0.95, 0.9194, 0.05, 0.0806),
    RateRow("BCNN", 0.9965, 0.94, 0.0035, 0.06),
    RateRow(OURS, 0.9836, 0.9967, 0.0164, 0.0033),
)
"""Table 5, right: fluorescent magnetic powder."""
