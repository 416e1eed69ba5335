"""The only room that can say PASS. Every default, zero, exception, gap, timeout and silence before it ends in FAIL."""

from dataclasses import dataclass

from drivers.camera import Frame
from station.inspection import Inspection, Reason, Result, Verdict
from station.recipe import Recipe
from station.state import EXECUTING, State


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Everything that is known of a part when it is judged. What is missing counts against it.

    Attributes:
        recipe: what is prepared, None when nothing is.
        asked_recipe: the recipe number that the PLC had asked for when it triggered; 0 when no PLC ever asked for one.
        asked_hash: the hash of what the PLC was given for it; empty while it still waited.
        frame: the frame that was taken of this part, None when none came.
        inspection: what was seen in that frame, None when the inspection failed.
        detail: what went wrong, in words.
    """

    job_id: int
    sequence: int
    part_id: str
    triggered_ns: int
    asked_recipe: int
    asked_hash: str
    recipe: Recipe | None
    frame: Frame | None
    inspection: Inspection | None
    is_simulated: bool
    detail: str = ""


class Gate:
    """Turns what is known of a part into its one answer."""

    def judge(self, part: Part, state: State, now_ns: int) -> Result:
        """The answer to `part`, at `now_ns` on the monotonic clock. Never raises, and says PASS only when nothing speaks against it."""
        reason = self._reason(part, state, now_ns)
        return Result(
            job_id=part.job_id,
            sequence=part.sequence,
            part_id=part.part_id,
            verdict=Verdict.PASS if reason is Reason.GOOD else Verdict.FAIL,
            reason=reason,
            asked_recipe=part.asked_recipe,
            recipe_number=part.recipe.number if part.recipe else 0,
            recipe_hash=part.recipe.hash if part.recipe else "",
            inspection=part.inspection,
            triggered_ns=part.triggered_ns,
            judged_ns=now_ns,
            is_simulated=part.is_simulated,
            detail=part.detail,
        )

    def _reason(self, part: Part, state: State, now_ns: int) -> Reason:
        recipe, frame, seen = part.recipe, part.frame, part.inspection
        if state not in EXECUTING or recipe is None:
            return Reason.NOT_RUNNING
        if part.asked_recipe and (part.asked_recipe, part.asked_hash) != (recipe.number, recipe.hash):
            return Reason.WRONG_RECIPE
        if frame is None or frame.flaw:
            return Reason.MISSED_FRAME
        if seen is None or (seen.frame_id, seen.captured_ns) != (frame.frame_id, frame.captured_ns):
            return Reason.INSPECTION_ERROR
        if seen.recipe_hash != recipe.hash:
            return Reason.WRONG_RECIPE
        if not 0 <= now_ns - frame.captured_ns <= recipe.document.deadline_ms * 1_000_000:
            return Reason.LATE
        if seen.class_name not in recipe.document.good:
            return Reason.DEFECT
        if not recipe.document.minimum_probability <= seen.probability <= 1:
            return Reason.UNCERTAIN
        return Reason.GOOD
