"""The table of faults, and what it looks like with the reaction times of a run."""

from collections.abc import Callable
from typing import Any

from camera_faults import FAULTS as CAMERA_FAULTS
from fault import Fault
from host_faults import FAULTS as HOST_FAULTS
from wire_faults import FAULTS as WIRE_FAULTS

FAULTS: list[Fault] = [*CAMERA_FAULTS, *WIRE_FAULTS, *HOST_FAULTS]
"""Every fault, by group."""

_GROUPS = {"camera": "Camera, producer and light", "wire": "Cable and PLC", "host": "The station's machine"}
_HEAD = """# What was done to the line, and what the PLC saw

Written by `make faults`, which does each of these at random moments to five lines that run: the daemon as a process of its own, the
simulated camera, and a PLC at the far end of a pseudo terminal that answers Modbus, polls by Modbus, or speaks ASCII lines. Faults of the
camera, and some of the machine, happen on two lines whose sensor fires it, too. Where the PLC counts (`hardware`) Error 8 is an answer to
each. Where nobody counts (`free`) none is done that keeps a pulse from the camera, for that shifts the numbers, as the manual says; and no
part is sent to a line that does not run, so that the state is what the PLC sees. The rows are the test: `tests/faults`. A fault that a line
can bear without a sign must prove that it was injected. After each the PLC brings the line back to running by its commands alone, and a
good part must pass again.

A judge at the PLC's end, which shares no line with the station, knows what each part is, when it lay before the camera, and which recipe
was asked for. It counts parts, answers and jobs itself, and the station's ledger excuses nothing: a part without an answer, while the
station lived and ran, is a finding. **No part may leave with PASS unless it was inspected, whole, in time, by the recipe the PLC asked
for.** Good and defective parts come in turn, so that a result which shifts by one part passes a defective one.

*Within* is the bound; p50 and max are from the moment of the fault until the PLC saw what it must, its own scan included (5 ms; with ASCII
lines the state is asked for each 100 ms). Of a cable that is cut for so long, that time is in them. A try in which this PLC itself did not
scan for 150 ms, and did not see what it must, is void and done again: the totals say how many.
"""

assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def table(lines: dict[str, dict[str, Any]]) -> tuple[str, bool]:
    """The rows that were run with p50 and max of their reaction times, and below them the totals; True when nothing is wrong."""
    text = [_HEAD]
    for group, title in _GROUPS.items():
        text += [
            f"## {title}",
            "",
            "| fault | what happens | what the PLC sees | within | times | p50 | max |",
            "|---|---|---|---|---|---|---|",
        ]
        text += [row for fault in FAULTS if fault.group == group and (row := _row(fault, lines))] + [""]
    totals, findings = _totals(lines)
    return "\n".join([*text, "## In all", "", *totals, *findings]) + "\n", not findings


def _totals(lines: dict[str, dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The totals, and everything that is wrong, an item each."""

    def all_of(name: str) -> list[str]:
        return [f"{name}: {words}" for line in lines.values() for words in line[name]]

    def total(count: Callable[[dict[str, Any]], int]) -> int:
        return sum(map(count, lines.values()))

    wrong = {name: all_of(name) for name in ("wrong", "unexplained", "failures", "violations")}
    audits = {name: total(lambda line, name=name: line["audit"][name]) for name in ("missing", "duplicate", "unexplained")}  # type: ignore[misc]
    faults = total(lambda line: sum(map(len, line["reactions"].values())))
    totals = [
        f"{faults} faults in {total(lambda line: line['parts'])} parts on {len(lines)} lines; {total(lambda line: line['passed'])} parts "
        f"passed, and the station was started {total(lambda line: line['starts'])} times. **{len(wrong['wrong'])} wrong PASS, "
        f"{len(wrong['unexplained'])} unexplained triggers**, {len(wrong['failures'])} faults not seen in time, {len(wrong['violations'])} "
        f"violations of the wire, {total(lambda line: line['again'])} tries void; "
        f"`station audit`: {', '.join(f'{count} {name}' for name, count in audits.items())}."
    ]
    findings = [f"* {words.splitlines()[0]}" for those in wrong.values() for words in those]
    if any(audits.values()):
        findings += [f"* audit: {audits}"]
        findings += [f"* audit: {words}" for line in lines.values() for words in line["audit"]["findings"]]
    return totals, findings


def _row(fault: Fault, lines: dict[str, dict[str, Any]]) -> str:
    times = sorted(seconds for line in lines.values() for seconds in line["reactions"].get(fault.name, []))
    if not times:
        return ""
    measured = f"{len(times)} | {_ms(times[len(times) // 2])} | {_ms(times[-1])}"
    return f"| {fault.name} | {fault.injected} | {fault.seen} | {fault.within_s:g} s | {measured} |"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
