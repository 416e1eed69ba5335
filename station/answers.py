"""The answers on their way to the PLC: one stands on the wire until it is acknowledged, the next ones wait in order."""

from collections import deque
from dataclasses import dataclass

from drivers.plc import NO_RESULT, PlcResult

REPETITIONS = 3
"""How often an answer is told again before the PLC counts as not listening (PLC.md, rule 6)."""
_REMEMBERED = 256


@dataclass(slots=True)
class _Answer:
    result_id: int | None
    part_id: str
    result: PlcResult
    told_ns: int = 0
    times_told: int = 0


class Answers:
    """Owns what the result registers say. Times are the monotonic clock's, given by the caller."""

    def __init__(self, acknowledge_ns: int) -> None:
        self._patience_ns = acknowledge_ns * (1 + REPETITIONS)
        self._waiting: deque[_Answer] = deque()
        self._standing = NO_RESULT
        self._remembered: dict[int, _Answer] = {}

    def add(self, result_id: int | None, part_id: str, result: PlcResult) -> None:
        """Queues an answer; `result_id` is its row in the ledger, None when it has none."""
        self._waiting.append(_Answer(result_id, part_id, result))
        self._remembered[result.sequence] = _Answer(result_id, part_id, result)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.pop(next(iter(self._remembered)))

    def repeat(self, sequence: int, part_id: str) -> bool:
        """Queues the very answer that this part was given before; False when this number was not given to this part in this job."""
        before = self._remembered.get(sequence)
        if before is None or before.part_id != part_id:
            return False
        self._waiting.append(_Answer(before.result_id, part_id, before.result))
        return True

    def standing(self) -> PlcResult:
        """What the wire must say now: the oldest answer not acknowledged, else the last one."""
        return self._waiting[0].result if self._waiting else self._standing

    def told(self, now_ns: int) -> None:
        """Notes that `standing` has reached the PLC once more."""
        if self._waiting:
            answer = self._waiting[0]
            answer.told_ns = answer.told_ns if answer.times_told else now_ns
            answer.times_told += 1

    def acknowledge(self, sequence: int) -> tuple[bool, int | None]:
        """Takes the PLC's acknowledgement: whether it is for the answer that stands, and that answer's row in the ledger.

        An answer that was never told cannot be acknowledged: a number left standing in the PLC's register proves nothing.
        """
        if not self._waiting or not self._waiting[0].times_told or self._waiting[0].result.sequence != sequence:
            return False, None
        answer = self._waiting.popleft()
        self._standing = answer.result
        return True, answer.result_id

    def overdue(self, now_ns: int) -> bool:
        """True when the standing answer was told, and told again three times in all of the PLC's time, and is still not acknowledged."""
        if not self._waiting:
            return False
        answer = self._waiting[0]
        return answer.times_told > REPETITIONS and now_ns - answer.told_ns > self._patience_ns

    def settled(self) -> bool:
        """True when nothing waits for an acknowledgement."""
        return not self._waiting

    def drop(self) -> None:
        """Leaves the wire at reject: nothing stands, nothing waits."""
        self._waiting.clear()
        self._standing = NO_RESULT

    def forget(self) -> None:
        """Begins a new numbering: nothing of the one before stands on the wire, and none of its parts is answered again."""
        self._remembered.clear()
        self._standing = NO_RESULT
