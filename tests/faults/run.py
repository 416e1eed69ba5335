"""`make faults`: every fault so many times at random moments of five running lines; prints the table, and exits 1 on anything wrong."""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from ledger_check import check  # noqa: E402
from plant import BULB, LINKS, NotSeenError, Plant  # noqa: E402
from table import FAULTS, Fault, table  # noqa: E402

_TRIES = 3
_STOOD_STILL_S = 0.15
"""A PLC that does not scan for longer than `timeout_ms` is a fault of its own, which a machine under load injects."""


def work(link: str, seed: int, shares: int, each: int, names: list[str], folder: Path, blame: bool) -> dict[str, Any]:
    """One line that takes its share of the faults, one of `shares` of each link, in an order that the seed says."""
    chance = random.Random(f"{seed} {link}")
    todo: list[Fault] = []
    for fault in FAULTS:
        if link in fault.links and (not names or fault.name in names):
            todo += [fault] * -(-each // (shares * len(fault.links)))
    chance.shuffle(todo)
    reactions: dict[str, list[float]] = defaultdict(list)
    failures: list[str] = []
    again = 0
    with Plant(folder, link, seed) as line:
        line.run(BULB)
        line.judge.fault = ""
        for number, fault in enumerate(todo):
            begun_s = time.monotonic()
            try:
                reaction_s, void = happen(line, fault)
                reactions[fault.name].append(reaction_s)
                again += void
            except NotSeenError as error:
                failures.append(f"{fault.name}: {error}")
                print(f"[{link}] FAILED {failures[-1]}", file=sys.stderr, flush=True)
                line.stop_station(9)
                line.run(BULB)
            if blame:
                audit = line.operator("audit")
                print(f"[{link}] audit after {fault.name}: {audit['findings'][-2:]}", file=sys.stderr, flush=True)
            took_s = time.monotonic() - begun_s
            print(
                f"[{link}] {number + 1}/{len(todo)} {fault.name}: {took_s:.1f} s, {len(line.judge.wrong)} wrong",
                file=sys.stderr,
                flush=True,
            )
        line.quiet()
        audit = line.operator("audit")
        audit["missing"] = max(0, audit["missing"] - line.jumped)  # which it names, as it must: nobody knows what was there
        line.stop_station()
        findings = check(line.home / "data/ledger.sqlite", line.judge)
    return {
        "reactions": reactions,
        "failures": failures,
        "wrong": line.judge.wrong,
        "violations": line.judge.violations,
        "parts": len(line.judge.parts),
        "passed": sum(bool(part.passed) for part in line.judge.parts),
        "starts": line.restarts,
        "again": again,
        "audit": audit,
        "unexplained": findings,
    }


def happen(line: Plant, fault: Fault) -> tuple[float, int]:
    """Returns the reaction time, in s, and how many tries before were void: this suite's own PLC had stood still in them.

    Raises:
        NotSeenError: see `Fault.happen`.
    """
    for void in range(_TRIES):
        try:
            return fault.happen(line), void
        except NotSeenError as error:
            if line.late_s < _STOOD_STILL_S or void == _TRIES - 1:
                raise
            print(f"[{line.link}] void, {fault.name}: {error}", file=sys.stderr, flush=True)
            line.run(BULB)
    raise AssertionError


def main() -> int:
    """Runs the lines, one process each; 0 when no part left wrongly, every trigger is explained and every fault was seen in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=20, help="how often each fault happens (%(default)s)")
    parser.add_argument("--lines", type=int, default=1, help="so many lines of each link (%(default)s)")
    parser.add_argument("--at-once", type=int, default=2 * (os.cpu_count() or 1), help="so many lines run at once (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this fault; may be repeated")
    parser.add_argument("--group", choices=("camera", "wire", "host"), help="only this group")
    parser.add_argument("--link", choices=tuple(LINKS), help="only this line")
    parser.add_argument("--blame", action="store_true", help="audit the ledger after each fault, to see which one left what it finds")
    parser.add_argument("--table", type=Path, help="where the table is written, as Markdown")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it started ends with it
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            options.worker.write_text(
                json.dumps(work(options.link, options.seed, options.lines, options.each, options.only, Path(folder), options.blame))
            )
        return 0
    if options.group:
        options.only += [fault.name for fault in FAULTS if fault.group == options.group]
    links = [options.link] if options.link else [*LINKS]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        words = [sys.executable, __file__, "--each", str(options.each), "--lines", str(options.lines)]
        words += ["--blame"] if options.blame else []
        words += [word for name in options.only for word in ("--only", name)]
        files = {}
        for link, number in product(links, range(options.lines)):
            file = Path(folder) / f"{link}-{number}.json"
            files[file] = [*words, "--seed", str(options.seed * 1000 + number), "--link", link, "--worker", str(file)]
        with ThreadPoolExecutor(options.at_once) as workers:
            codes = [*workers.map(lambda command: subprocess.run(command, check=False).returncode, files.values())]
        if any(codes):
            return 1
        lines = {file.stem: json.loads(file.read_text()) for file in files}
    text, fine = table(lines)
    print(text)
    if options.table:
        options.table.write_text(text)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
