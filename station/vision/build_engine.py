"""`python -m station.vision.build_engine`: the process in which an engine is built; `built` starts it and tells it on stdin what to build.

Its answer is its exit code; `built.REFUSED` comes with the words on stdout, where nothing else is printed.
"""

import os
import pickle
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

from station.vision.built import REFUSED, build
from station.vision.engine import EngineError
from station.vision.weights import WeightsError

if __name__ == "__main__":
    os.nice(10)  # the line runs on while an engine is built,
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # and when memory ends, this is what goes first
    try:
        with redirect_stdout(sys.stderr):
            build(*pickle.load(sys.stdin.buffer))
    except (EngineError, WeightsError, ImportError, OSError) as error:
        print(error)
        sys.exit(REFUSED)
