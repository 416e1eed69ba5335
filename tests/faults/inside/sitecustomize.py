"""Runs in every process of a station that the suite starts: SIGUSR1 executes the Python text in the file $STATION_FAULT.

So a fault can happen inside a process that knows nothing of faults. It is found by PYTHONPATH and by nothing else.
"""

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType


def _happen(_number: int, _frame: FrameType | None) -> None:
    try:
        exec(Path(os.environ["STATION_FAULT"]).read_text(), {})
        Path(os.environ["STATION_FAULT"] + ".done").touch()
    except BaseException:
        Path(os.environ["STATION_FAULT"] + ".failed").write_text(traceback.format_exc())
        raise


if "STATION_FAULT" in os.environ and hasattr(sys, "argv"):
    signal.signal(signal.SIGUSR1, _happen)
