"""Fair clocks: contenders in turn, ratios round by round, distributions that only name times that occurred."""

import time
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from statistics import median

Clock = Callable[[], float]
"""Seconds from any beginning, never backwards."""
Contender = tuple[str, Callable[[], object]]
"""A name, and one frame's work; it returns when the work is done, not when it is queued."""
Times = dict[str, list[float]]
"""Seconds of each round by contender, rounds in order."""


def interleaved(contenders: Sequence[Contender], rounds: int, clock: Clock = time.perf_counter) -> Times:
    """Times the contenders in turn, A B C A B C, from the first call on: who calls has warmed them up."""
    times: Times = {name: [] for name, _ in contenders}
    for _ in range(rounds):
        for name, work in contenders:
            times[name] += repeated(work, 1, clock)
    return times


def repeated(work: Callable[[], object], times: int, clock: Clock = time.perf_counter) -> list[float]:
    """The seconds of each of so many calls back to back."""
    seconds = []
    for _ in range(times):
        begun = clock()
        work()
        seconds.append(clock() - begun)
    return seconds


def ratio(times: Times, slow: str, fast: str) -> float:
    """How many times longer `slow` took than `fast`: the median of the rounds' own ratios, in which a slow moment hits both."""
    return median(longer / shorter for longer, shorter in zip(times[slow], times[fast], strict=True))


def distribution_ms(seconds: Iterable[float]) -> dict[str, float]:
    """Nearest-rank p50, p99 and p99.9 in milliseconds: times that occurred. Of fewer than 1,000 frames p99.9 is the slowest."""
    ordered = sorted(seconds)
    return {name: 1e3 * ordered[ceil(share * len(ordered)) - 1] for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}


def per_second(seconds: Sequence[float]) -> float:
    """How many a second, back to back."""
    return len(seconds) / sum(seconds)
