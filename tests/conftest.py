"""What several tests share: a home with the demo's recipes, and the real pictures where a machine has them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
# One thread a process: tests run beside the daemons they start, and small networks lose more to waiting threads than they gain.
os.environ["OMP_NUM_THREADS"] = "1"
STATION = [sys.executable, "-m", "station.cli"]


def make_home(folder: Path, **sections: Any) -> Path:
    """A home folder with the demo's recipes and weights, and its station.yaml changed by `sections`."""
    config = yaml.safe_load((REPOSITORY / "station.yaml").read_text())
    for section, values in sections.items():
        config[section] = {**config.get(section, {}), **values} if isinstance(values, dict) else values
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "station.yaml").write_text(yaml.safe_dump(config))
    shutil.copytree(REPOSITORY / "recipes", folder / "recipes")
    (folder / "weights").symlink_to(REPOSITORY / "weights")
    return folder


def station(home: Path, *words: str, code: int | None = 0, timeout_s: float = 100) -> Any:
    """Runs one command of the station with --json and returns its document."""
    ran = subprocess.run([*STATION, "--home", str(home), *words, "--json"], capture_output=True, text=True, timeout=timeout_s, check=False)
    if code is not None:
        assert ran.returncode == code, f"station {' '.join(words)} exited with {ran.returncode}:\n{ran.stderr[-3000:]}"
    assert "Traceback" not in ran.stderr
    return json.loads(ran.stdout) if ran.stdout else ran.stderr


def until(reached: Callable[[], bool], within_s: float, what: str) -> None:
    """Waits for a state, not for a time."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.02)


@contextmanager
def daemon(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (home / "log").open("ab") as log:
        process = subprocess.Popen([*STATION, "--home", str(home), "run"], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def far_plc(home: Path, *batches: str, more: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """The simulated PLC as a program of its own, which outlives the station."""
    words = ["--port", str(home / "data/simulated/plc"), "--directory", str(home / "data/simulated"), "--serial", "SIM-MQ042"]
    words += [word for batch in batches for word in ("--batch", batch)]
    words += ["--defective", "0.3", "--noise", "2", "--interval", "0.02", "--part-timeout", "2.5", *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "drivers.simulated", "line", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real pictures beside the repository."""
    if not DATA.is_dir():
        pytest.skip("the folder of real pictures is not beside this checkout")
    return DATA
