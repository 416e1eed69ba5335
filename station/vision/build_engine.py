"""`python -m station.vision.build_engine`: the process in which an engine is built; `built` starts it and tells it on stdin what to build.

Exit code 3 with the words on stdout is a refusal.
"""

import os
import pickle
import sys

from station.vision.built import build
from station.vision.engine import EngineError
from station.vision.weights import WeightsError

REFUSED = 3

if __name__ == "__main__":
    os.nice(10)  # the line runs on while an engine is built
    try:
        build(*pickle.load(sys.stdin.buffer))
    except (EngineError, WeightsError, OSError) as error:
        print(error)
        sys.exit(REFUSED)
