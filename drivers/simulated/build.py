"""Compiles the simulated cameras to `station-simulated.cti`: `python -m drivers.simulated.build`."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
PRODUCER = FOLDER / "station-simulated.cti"
"""Where the GenTL producer is, once it is built."""
SOURCES = tuple(f"{name}.c" for name in ("producer", "ports", "stream", "camera", "control", "exposure", "sensor", "formats", "models"))
INPUTS = (*SOURCES, "camera.h", "producer.h", "gentl.h", "camera.xml", "interface.xml", "stream.xml", "build.py")
FLAGS = shlex.split("-std=gnu11 -O3 -shared -fPIC -pthread -fvisibility=hidden -Wall -Wextra -Werror")


class BuildError(Exception):
    """The producer cannot be compiled; the message says why and what to do."""


def build() -> Path:
    """Compiles the producer with `$CC` or `cc`, unless it is newer than everything it is made of; returns `PRODUCER`.

    The old producer is replaced whole or not at all, so that any number may build at once and open cameras stay as they are.

    Raises:
        BuildError: there is no compiler, it fails, or the folder cannot be written.
    """
    if PRODUCER.exists() and PRODUCER.stat().st_mtime_ns > max((FOLDER / name).stat().st_mtime_ns for name in INPUTS):
        return PRODUCER
    compiler = shlex.split(os.environ.get("CC") or "cc")
    try:
        with tempfile.TemporaryDirectory(prefix=".build-", dir=PRODUCER.parent) as folder:
            fresh = Path(folder) / PRODUCER.name
            _compile([*compiler, *FLAGS, "-o", str(fresh), *SOURCES, "-lm"])
            fresh.replace(PRODUCER)
    except OSError as error:
        raise BuildError(f"{PRODUCER}: cannot be written: {error}") from error
    return PRODUCER


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(
            f"{PRODUCER.name}: no C compiler {command[0]!r} to build the simulated cameras with: "
            "install one (Debian: apt install gcc libc6-dev), or name it in CC"
        ) from error
    if done.returncode != 0:
        raise BuildError(f"{PRODUCER.name}: {shlex.join(command)} failed:\n{done.stderr.rstrip()}")


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as error:
        sys.exit(str(error))
