"""The suite's own look into the ledger: whatever the PLC asked for and got must be found there, and nothing may have passed that is not.

What the PLC got is the judge's word; the ledger is compared with it and excuses nothing.
"""

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

from judge import PASS_WORD, Judge


def check(file: Path, judge: Judge) -> list[str]:
    """What is not explained, in words: an answer without a row, a PASS that is not in it, a part without an answer on a line that ran.

    Where nobody counts for the station its rows have no part's id: then there must be as many as were answered, of each number and verdict.
    """
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as ledger:
        rows = ledger.execute("SELECT part_id, sequence, verdict FROM results").fetchall()
        whole = ledger.execute("PRAGMA integrity_check").fetchone()[0]
    by_part: dict[str, set[str]] = {}
    missed: set[int] = set()
    unnamed: Counter[tuple[int, bool]] = Counter()
    for part_id, sequence, verdict in rows:
        by_part.setdefault(part_id, set()).add(verdict)
        if not part_id:
            missed.add(sequence)
            unnamed[sequence, verdict == "PASS"] += 1
    findings = [*judge.unanswered()] if whole == "ok" else [*judge.unanswered(), f"the ledger's file: {whole}"]
    if judge.numbers_itself:
        told = Counter((part.sequence, part.answer[1] == PASS_WORD) for part in judge.parts if part.answer is not None)
        return findings + [f"{count} parts {each} were answered and are not in the ledger" for each, count in (told - unnamed).items()]
    for part in judge.parts:
        verdicts = by_part.get(part.part_id, set())
        words = f"part {part.part_id} ({part.sequence}, during {part.disturbed or 'no fault'})"
        if part.passed and "PASS" not in verdicts:
            findings.append(f"{words} left with PASS; the ledger says {sorted(verdicts)}")
        if part.answer is not None and not verdicts and part.sequence not in missed:
            findings.append(f"{words} was answered and is not in the ledger")
    return findings
