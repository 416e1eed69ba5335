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
    result: PlcResult
    told_ns: int | None = None


class Answers:
    """Owns what the result registers say. Times are the monotonic clock's, given by the caller."""

    def __init__(self, acknowledge_ns: int) -> None:
        self._patience_ns = acknowledge_ns * (1 + REPETITIONS)
        self._waiting: deque[_Answer] = deque()
        self._standing = NO_RESULT
        self._told: dict[int, PlcResult] = {}

    def add(self, result_id: int | None, result: PlcResult) -> None:
        """Queues an answer; `result_id` is its row in the ledger, None when it has none."""
        self._waiting.append(_Answer(result_id, result))
        self._told[result.sequence] = result
        if len(self._told) > _REMEMBERED:
            self._told.pop(next(iter(self._told)))

    def repeat(self, sequence: int) -> bool:
        """Queues the very answer this part was given before; False when it is not remembered."""
        if (result := self._told.get(sequence)) is None:
            return False
        self._waiting.append(_Answer(None, result))
        return True

    def standing(self) -> PlcResult:
        """What the wire must say now: the oldest answer not acknowledged, else the last one."""
        return self._waiting[0].result if self._waiting else self._standing

    def told(self, now_ns: int) -> None:
        """Notes that `standing` has reached the PLC."""
        if self._waiting and self._waiting[0].told_ns is None:
            self._waiting[0].told_ns = now_ns

    def acknowledge(self, sequence: int) -> tuple[bool, int | None]:
        """Takes the PLC's acknowledgement: whether it is for the answer that stands, and that answer's row in the ledger.

        An answer that was never told cannot be acknowledged: a number left standing in the PLC's register proves nothing.
        """
        if not self._waiting or self._waiting[0].told_ns is None or self._waiting[0].result.sequence != sequence:
            return False, None
        answer = self._waiting.popleft()
        self._standing = answer.result
        return True, answer.result_id

    def overdue(self, now_ns: int) -> bool:
        """True when the standing answer was told, and told again three times, and is still not acknowledged."""
        if not self._waiting:
            return False
        told_ns = self._waiting[0].told_ns
        return told_ns is not None and now_ns - told_ns > self._patience_ns

    def settled(self) -> bool:
        """True when nothing waits for an acknowledgement."""
        return not self._waiting

    def drop(self) -> None:
        """Leaves the wire at reject: nothing stands, nothing waits."""
        self._waiting.clear()
        self._standing = NO_RESULT

    def forget(self) -> None:
        """Begins a new job: no number of an earlier one is answered again."""
        self._told.clear()
