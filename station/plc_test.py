"""`station plc test`: a dry handshake with the PLC, without camera, recipe or network.

The station says Preoperational and no result for some seconds, so that nothing can pass and nothing is asked of the PLC; what comes back
and how fast shows whether wiring, settings and the PLC's program are right.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from drivers.plc import NO_RESULT, Command, CommandStatus, Plc, PlcError, PlcInput, StationSignals
from station.config import PlcConfig
from station.report import percentiles

_PREOPERATIONAL = 1
_PAUSE_S = 0.01
"""Between two exchanges."""
_BEFORE_CONTACT_S = 2.0
"""So long may it take until the PLC has answered for the first time; what fails in this time is no lost telegram."""
_LARGEST_COMMAND = max(Command)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `fix` is empty when there is nothing to do."""

    check: str
    status: Literal["ok", "fail"]
    detail: str
    fix: str = ""


@dataclass(slots=True)
class Trial:
    """What came of all exchanges.

    Attributes:
        heard: what the PLC said each time that it did, and when, on the monotonic clock.
        times_ms: how long each good exchange took.
        errors: what went wrong since the first good one, by its words; and before it, only the last.
    """

    heard: list[tuple[float, PlcInput]] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    last_error: str = ""


def run(plc: Plc, config: PlcConfig, seconds: float, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Exchanges with `plc` for `seconds` from its first answer, and says what is right and wrong. Closes nothing.

    Returns:
        {"link", "simulated", "exchanges", "ms": {"p50", "p99", "max"}, "reached", "ok", "checks": [Finding as a dict]}; `reached` is False
        when the PLC never answered.
    """
    trial = exchange(plc, seconds, clock)
    found = [*_answers(trial, config), *(_program(trial, config, seconds) if trial.heard else ())]
    return {
        "link": config.link,
        "simulated": plc.simulated,
        "exchanges": len(trial.heard),
        "ms": percentiles(trial.times_ms),
        "reached": bool(trial.heard),
        "ok": all(finding.status == "ok" for finding in found),
        "checks": [{"check": one.check, "status": one.status, "detail": one.detail, "fix": one.fix} for one in found],
    }


def exchange(plc: Plc, seconds: float, clock: Callable[[], float]) -> Trial:
    """Says Preoperational, no recipe and no result, with a heartbeat that moves, and notes what comes back."""
    trial = Trial()
    until_s = clock() + _BEFORE_CONTACT_S
    heartbeat = 0
    while (began_s := clock()) < until_s:
        heartbeat += 1
        try:
            heard = plc.exchange(StationSignals(_PREOPERATIONAL, heartbeat, 0, 0, NO_RESULT, 0, CommandStatus.IDLE, 0, 0))
        except PlcError as error:
            trial.last_error = str(error)
            if trial.heard and "tried again in" not in trial.last_error:
                trial.errors[trial.last_error] += 1
        else:
            if not trial.heard:
                until_s = clock() + seconds
            trial.times_ms.append((clock() - began_s) * 1e3)
            trial.heard.append((clock(), heard))
        time.sleep(_PAUSE_S)
    return trial


def _finding(check: str, wrong: str, right: str, fix: str) -> Finding:
    return Finding(check, "fail", wrong, fix) if wrong else Finding(check, "ok", right)


def _answers(trial: Trial, config: PlcConfig) -> Iterator[Finding]:
    if not trial.heard:
        yield Finding("answers", "fail", trial.last_error, "the message says what to check; the manual's section on wiring says how")
        return
    yield Finding("answers", "ok", f"{len(trial.heard)} exchanges went well")
    lost = sum(trial.errors.values())
    example = trial.errors.most_common(1)[0][0] if trial.errors else ""
    yield _finding(
        "no telegram lost",
        f"{lost} of {lost + len(trial.heard)} exchanges failed: {example}" if lost else "",
        "every exchange was answered in time",
        "shorten or shield the cable, check termination and ground; or raise plc.timeout_ms when the PLC's scan is slower",
    )
    if config.link == "modbus-rtu" and config.role == "client":
        times = percentiles(trial.times_ms)
        allowed_ms = config.timeout_ms * (1 if config.fc23 else 2)
        text = f"median {times['p50']:.1f} ms, at most {times['max']:.1f} ms, of {allowed_ms} ms allowed"
        yield _finding(
            "round trip",
            text if times["max"] > 0.8 * allowed_ms else "",
            text,
            "raise plc.timeout_ms to twice the longest time, or the baud rate at both ends",
        )


def _program(trial: Trial, config: PlcConfig, seconds: float) -> Iterator[Finding]:
    ascii_lines = config.link == "ascii"
    said = [heard for _, heard in trial.heard]
    yield _heartbeat(trial, config, seconds)
    yield _byte_order([heard.heartbeat for heard in said], said[-1])
    code, sequence = said[-1].command.code, said[-1].command.sequence
    wrong = f"command code {code} is none; there are 0 to {_LARGEST_COMMAND}" if code > _LARGEST_COMMAND else ""
    if code and not sequence and not wrong:
        wrong = f"command {code} stands there with sequence 0, which is never executed"
    standing = f", command {code} with sequence {sequence}, which the station takes for old" if code else ", none stands"
    yield _finding("commands", wrong, f"readable{standing}", "write argument and code, then count the sequence (35) up, from 1")
    taken = _new(heard.acknowledged for heard in said)
    yield _finding(
        "acknowledgement",
        f"it changed to {_some(taken)} though no result was told" if taken else "",
        f"stands at {said[-1].acknowledged}, as it must: no result was told",
        "say TAK with the number of a result that you took, and only then"
        if ascii_lines
        else "when you took a result, copy register 5 to 36",
    )
    triggers = _new(trigger.sequence for heard in said for trigger in heard.triggers)
    yield _finding(
        "triggers",
        f"{_some(triggers)} was triggered while the station was not ready" if triggers else "",
        "none while the station is not ready",
        "trigger only while the station's state is 8 and its heartbeat moves; every other trigger is FAIL / not running",
    )


def _new(numbers: Iterable[int]) -> set[int]:
    """What a number changed to, but for 0, to which it may fall when a station comes."""
    return {after for before, after in pairwise(numbers) if after not in (before, 0)}


def _heartbeat(trial: Trial, config: PlcConfig, seconds: float) -> Finding:
    moved_s = [trial.heard[0][0]]
    for (_, before), (now_s, heard) in pairwise(trial.heard):
        if heard.heartbeat != before.heartbeat:
            moved_s.append(now_s)
    moved_s.append(trial.heard[-1][0])
    longest_ms = max(after - before for before, after in pairwise(moved_s)) * 1e3
    limit_ms = min(config.heartbeat_ms or 1_500, 1_500, seconds * 1e3 / 2)
    text = f"moved {len(moved_s) - 2} times, standing still for {longest_ms:.0f} ms at most"
    return _finding(
        "heartbeat",
        text if longest_ms > limit_ms or len(moved_s) < 3 else "",
        text,
        "send HBT at least twice a second" if config.link == "ascii" else "count register 32 up in every scan, or at least twice a second",
    )


def _byte_order(beats: Sequence[int], last: PlcInput) -> Finding:
    """A counter whose low byte never moves, or a command code above 255 whose high byte is one, was swapped on the way."""
    steps = {(after - before) % 0x10000 for before, after in pairwise(beats)} - {0}
    code = last.command.code
    swapped = (bool(steps) and all(step % 0x100 == 0 for step in steps)) or (code & 0xFF == 0 and 0 < code >> 8 <= _LARGEST_COMMAND)
    wrong = f"bytes are swapped: the heartbeat moves by {_some(steps)}, the command code is {code}" if swapped else ""
    return _finding(
        "byte order", wrong, "high byte first", "set the PLC's Modbus block to big-endian words, or swap the bytes in its program"
    )


def _some(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)[:4])) + (", ..." if len(numbers) > 4 else "")


def lines(document: dict[str, Any]) -> str:
    """The document for people."""
    return "\n".join(f"{one['status']:<5} {one['check']:<17} {one['detail']}" + _fix(one) for one in document["checks"])


def _fix(finding: dict[str, str]) -> str:
    return f"\n{'':24}fix: {finding['fix']}" if finding["fix"] else ""
