"""A stopwatch around the methods of real objects, so that nothing in production code knows that it is measured."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

_MS = 1_000_000


class Stopwatch:
    """Seconds spent in real objects' own methods, by stage."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """`clock`: monotonic ns, the one that frames are stamped by."""
        self.clock = clock
        self.ended_ns: dict[str, int] = {}
        self._spent_ns: dict[str, int] = defaultdict(int)

    def spent_ms(self) -> dict[str, float]:
        """By stage, since the last such question."""
        spent, self._spent_ns = self._spent_ns, defaultdict(int)
        return {stage: nanoseconds / _MS for stage, nanoseconds in spent.items()}

    def call(self, stage: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Calls the method on this stage's time."""
        begun_ns = self.clock()
        try:
            return method(*arguments, **named)
        finally:
            self.ended_ns[stage] = self.clock()
            self._spent_ns[stage] += self.ended_ns[stage] - begun_ns


class Timed:
    """The real object, with a stopwatch around the methods that are named; everything else is the object's own."""

    def __init__(self, real: object, watch: Stopwatch, stages: Mapping[str, str]) -> None:
        """`stages`: name of a method to name of its stage."""
        self._real, self._watch, self._stages = real, watch, stages

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return partial(self._watch.call, self._stages[name], found) if name in self._stages else found
