"""The words that travel: what was seen of a part (`Inspection`) and what was said about it (`Result`). Plain data, no behaviour.

PASS and FAIL are said; *good* or a class of defect is seen. The two never share a word.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np
import numpy.typing as npt


class Verdict(Enum):
    """What is said about a part. Only `failsafe.Gate` may say PASS; a test walks the whole source to prove it."""

    PASS = "PASS"
    FAIL = "FAIL"


class Reason(IntEnum):
    """Why a part got its verdict, by its number on the wire."""

    NONE = 0
    GOOD = 1
    DEFECT = 2
    UNCERTAIN = 3
    LATE = 4
    MISSED_FRAME = 5
    INSPECTION_ERROR = 6
    NOT_RUNNING = 7
    WRONG_RECIPE = 8


@dataclass(frozen=True, slots=True)
class Defect:
    """One connected region of a defective part.

    Attributes:
        class_name: the class the part was given, which its regions share.
        box: (x, y, width, height) in camera pixels, inside the frame.
        area_px: camera pixels of the region.
        peak: greatest grey value of the heat map in the region, 0..255.
    """

    class_name: str
    box: tuple[int, int, int, int]
    area_px: int
    peak: int


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """What the network and the segmentation saw of one frame.

    Attributes:
        frame_id: the camera's count of the very frame that was inspected.
        captured_ns: that frame's capture time, monotonic clock.
        recipe_hash: SHA-256 (64 hex digits) of the recipe that inspected.
        scores: class name to probability in the recipe's class order; they sum to 1.
        class_name, class_index, probability: the most probable class.
        defects: largest area first; empty for a class the recipe calls good.
        heat_map: grey 0-255 uint8 at the network's resolution (Eq. 5), for pictures; decides nothing after segmentation.
    """

    frame_id: int
    captured_ns: int
    recipe_hash: str
    scores: dict[str, float]
    class_name: str
    class_index: int
    probability: float
    defects: tuple[Defect, ...]
    heat_map: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The one answer to one part, complete enough to be told to a PLC, kept in the ledger and replayed.

    Attributes:
        job_id: which StartContinuous it belongs to; 0 when none was running.
        sequence: the part's number on the wire, 1..65535.
        asked_recipe: the recipe number the PLC had asked for when it triggered; 0 when no PLC ever asked.
        recipe_number, recipe_hash: what was prepared when it was answered; 0 and "" when nothing was.
        inspection: None when no frame was inspected; then the verdict is FAIL.
        triggered_ns, judged_ns: monotonic clock.
        detail: the cause in words where the reason alone does not tell it.
    """

    job_id: int
    sequence: int
    part_id: str
    verdict: Verdict
    reason: Reason
    asked_recipe: int
    recipe_number: int
    recipe_hash: str
    inspection: Inspection | None
    triggered_ns: int
    judged_ns: int
    is_simulated: bool
    detail: str = ""

    @property
    def elapsed_ms(self) -> float:
        """From trigger to verdict."""
        return (self.judged_ns - self.triggered_ns) / 1e6
