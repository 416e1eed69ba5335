"""The suite's own look into the ledger: whatever the PLC asked for and got must be found there, and nothing may have passed that is not."""

import sqlite3
from contextlib import closing
from pathlib import Path

from judge import Judge


def check(file: Path, judge: Judge) -> list[str]:
    """What is not explained, in words: an answer without a row, a PASS that is not in it, a trigger lost while all was well."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as ledger:
        rows = ledger.execute("SELECT part_id, sequence, verdict FROM results").fetchall()
        whole = ledger.execute("PRAGMA integrity_check").fetchone()[0]
    by_part: dict[str, set[str]] = {}
    missed = set()
    for part_id, sequence, verdict in rows:
        by_part.setdefault(part_id, set()).add(verdict)
        if not part_id:
            missed.add(sequence)
    findings = [] if whole == "ok" else [f"the ledger's file: {whole}"]
    for part in judge.parts:
        verdicts = by_part.get(part.part_id, set())
        words = f"part {part.part_id} ({part.sequence}, during {part.disturbed or 'no fault'})"
        if part.passed and "PASS" not in verdicts:
            findings.append(f"{words} left with PASS; the ledger says {sorted(verdicts)}")
        if part.answer is not None and not verdicts and part.sequence not in missed:
            findings.append(f"{words} was answered and is not in the ledger")
        if part.answer is None and part.shown and not part.disturbed and not verdicts and part.sequence not in missed:
            findings.append(f"{words} was triggered on a healthy line, and nothing is known of it")
    return findings
