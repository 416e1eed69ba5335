"""How long an audit takes of a ledger of ten million rows, its last day and all of it, and to keep one more answer in it.

python tests/measure_ledger.py [ROWS]     needs 340 bytes of disk a row; a row a tenth of a second, as ten parts a second make them
"""

import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from test_ledger import PART

from drivers.plc import LAST_SEQUENCE
from station.ledger import Ledger, audit
from station.ledger_file import INSERT, Value, link, row_of

ROWS = 10_000_000
EACH_NS = 100_000_000
BEGUN_NS = 1_700_000_000_000_000_000
DAY_NS = 86_400_000_000_000
PIECE = 100_000
APPENDED = 1000


def rows(count: int) -> Iterator[tuple[Value, ...]]:
    """One job's answers and their chain, as a station would have kept them."""
    chain = ""
    like = row_of(PART, 1, BEGUN_NS)
    for result_id in range(1, count + 1):
        row = (result_id, BEGUN_NS + result_id * EACH_NS, like[2], (result_id - 1) % LAST_SEQUENCE + 1, *like[4:])
        chain = link(chain, row)
        yield (*row, chain)


def fill(path: Path, count: int) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as ledger:
        ledger.execute("PRAGMA synchronous = OFF")
        made = rows(count)
        for first in range(1, count + 1, PIECE):
            piece = [row for _, row in zip(range(PIECE), made, strict=False)]
            ledger.execute("BEGIN")
            ledger.executemany(INSERT, piece)
            ledger.executemany("INSERT INTO acknowledgements VALUES (?, ?)", [(first + number, row[1]) for number, row in enumerate(piece)])
            ledger.execute("COMMIT")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    answer = call()
    return time.perf_counter() - begun, answer


def main(count: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        fill(path, count)
        end_ns = BEGUN_NS + (count + 1) * EACH_NS
        day_s, day = timed(lambda: audit(path, end_ns - DAY_NS, end_ns))
        all_s, everything = timed(lambda: audit(path, None, end_ns))
        with closing(Ledger(path)) as ledger:
            kept_s = [timed(lambda number=number: ledger.append(PART, end_ns + number))[0] for number in range(APPENDED)]  # type: ignore[misc]
        report = {
            "rows": everything.parts,
            "gib": round(path.stat().st_size / 2**30, 2),
            "day": {"rows": day.parts, "s": round(day_s, 2), "ok": day.ok},
            "all": {"rows": everything.parts, "s": round(all_s, 2), "ok": everything.ok},
            "append_ms": {"p50": round(statistics.median(kept_s) * 1e3, 2), "max": round(max(kept_s) * 1e3, 2)},
        }
    print(json.dumps(report))
    return 0 if day.ok and everything.ok else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS))
