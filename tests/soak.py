"""`make soak`: cameras that survive the factory: streams at full rate, kills, reconnects, and a loop that is never late.

python tests/soak.py [stream|kills|reconnects|canary ...]     all of them without a word; exit 1 when a bar is missed
"""

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

if "STATION_SIMULATED_DIR" not in os.environ:  # a camera's process imports this file too, and must look where its parent does
    os.environ["STATION_SIMULATED_DIR"] = tempfile.mkdtemp(prefix="station-soak-")

import contextlib

import numpy as np
from conftest import daemon, far_plc, make_home, station, until
from test_crashes import camera_process

from drivers.camera import Camera, CameraError, CameraState, Feature, Frame
from drivers.genicam import GenicamCamera
from drivers.isolated import IsolatedCamera
from drivers.simulated.build import PRODUCER
from drivers.simulated.scene import SENSORS, Scene, tell
from station.control import ControlError, ask
from station.real_time import real_time

DIRECTORY = Path(os.environ["STATION_SIMULATED_DIR"])
STREAM_S = 60
KILLS_S = 120
RECONNECTS = 1000
CANARY_S = 60
MER, MQ = "SIM-MER131", "SIM-MQ042"
FREE: dict[str, Feature] = {"TriggerMode": "Off"}
SOFTWARE: dict[str, Feature] = {"TriggerSelector": "FrameStart", "TriggerMode": "On", "TriggerSource": "Software"}
TICKS_S = os.sysconf("SC_CLK_TCK")


class Stamped(GenicamCamera):
    """Says when it handed a frame over in place of when it was captured."""

    def fetch(self, timeout_s: float) -> Frame | None:
        frame = super().fetch(timeout_s)
        return replace(frame, captured_ns=time.monotonic_ns()) if frame else None


def isolated(serial: str, kind: type[GenicamCamera] = GenicamCamera) -> IsolatedCamera:
    return IsolatedCamera(partial(kind, [PRODUCER], serial, simulated=True), simulated=True)


def streaming(camera: Camera, within_s: float = 20) -> float:
    """Waits for the camera to stream; returns for how long."""
    begun = time.monotonic()
    until(lambda: camera.status().state is CameraState.STREAMING, within_s, f"streaming: {camera.status().detail}")
    return time.monotonic() - begun


def cpu_s(pid: int, thread: str = "") -> float:
    fields = Path(f"/proc/{pid}/{thread}stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def stream(serial: str, pixel_format: str, rate: float) -> dict[str, Any]:
    """A minute at the camera's full rate, through Harvesters, the process boundary and shared memory."""
    width, height = SENSORS[serial]
    chance = np.random.default_rng(1)  # two pictures in turn: noise would be the simulated sensor's work, not the driver's
    Scene(DIRECTORY, serial).show([chance.integers(0, 256, (height, width), np.uint8) for _ in range(2)])
    features = {"PixelFormat": pixel_format, "AcquisitionFrameRateEnable": True, "AcquisitionFrameRate": rate, **FREE}
    hand_over_ms = sorted(_hand_over_ms(serial, features))
    camera = isolated(serial)
    camera.start(features)
    streaming(camera)
    while camera.fetch(0.5) is None:
        pass
    pid = camera_process(os.getpid()) or 0
    begun_s, begun_cpu = time.monotonic(), cpu_s(pid)
    driver_s = cpu_s(pid, f"task/{pid}/")
    ages_ms: list[float] = []
    missed = flawed = 0
    first = last = None
    while time.monotonic() - begun_s < STREAM_S:
        frame = camera.fetch(0.5)
        if frame is None:
            continue
        ages_ms.append((time.monotonic_ns() - frame.captured_ns) / 1e6)
        first = frame.frame_id if first is None else first
        last, missed, flawed = frame.frame_id, missed + frame.missed, flawed + bool(frame.flaw)
    taken_s = time.monotonic() - begun_s
    share, driver = (cpu_s(pid) - begun_cpu) / taken_s, (cpu_s(pid, f"task/{pid}/") - driver_s) / taken_s
    camera.close()
    counted = (last or 0) - (first or 0) + 1
    return {
        "camera": f"{serial} {width}x{height} {pixel_format}",
        "frames_per_s": round(len(ages_ms) / taken_s, 2),
        "frames": len(ages_ms),
        "missed": missed,
        "flawed": flawed,
        "unexplained": counted - len(ages_ms) - missed,
        "hand_over_ms": {"p50": round(statistics.median(hand_over_ms), 3), "p99": round(percentile(hand_over_ms, 0.99), 3)},
        "exposure_to_consumer_ms": {"p50": round(statistics.median(ages_ms), 3), "p99": round(percentile(ages_ms, 0.99), 3)},
        "camera_process_cpu": round(share, 3),
        "driver_thread_cpu": round(driver, 3),
        "ok": counted - len(ages_ms) == missed == 0 and share <= 0.25 and statistics.median(hand_over_ms) <= 1.0,
    }


def _hand_over_ms(serial: str, features: dict[str, Feature]) -> Iterator[float]:
    """From the driver's return in the camera process to the consumer's, for a thousand frames."""
    camera = isolated(serial, Stamped)
    camera.start(features)
    streaming(camera)
    for _ in range(1000):
        if frame := camera.fetch(0.5):
            yield (time.monotonic_ns() - frame.captured_ns) / 1e6
    camera.close()


def kills() -> dict[str, Any]:
    """The camera process of a running line is killed every 2 s for two minutes."""
    home = make_home(DIRECTORY / "kills", plc={"port": str(DIRECTORY / "kills/data/simulated/plc")}, simulation=None)
    chance, back_s, killed = random.Random(1), [], 0

    def told() -> dict[str, Any]:
        with contextlib.suppress(ControlError):
            return ask(home / "data/control.sock", {"command": "status"})
        return {"parts": 0, "camera": {"state": "", "reconnects": 0}}

    with far_plc(home, "1:bulb:100000") as plc, daemon(home) as process:
        until(lambda: told()["parts"] > 5, 60, "parts")
        begun = time.monotonic()
        while time.monotonic() - begun < KILLS_S:
            time.sleep(max(0.0, begun + 2 * killed - time.monotonic()) + chance.uniform(0, 0.2))
            before = told()["camera"]["reconnects"]
            os.kill(camera_process(process.pid) or 0, signal.SIGKILL)
            killed, gone = killed + 1, time.monotonic()
            until(lambda before=before: told()["camera"]["reconnects"] > before, 20, "the camera's return")  # type: ignore[misc]
            back_s.append(time.monotonic() - gone)
        status = told()
        plc.send_signal(signal.SIGTERM)
        counts = json.loads(plc.communicate(timeout=60)[0])
    audit = station(home, "audit")
    return {
        "kills": killed,
        "recovery_s": {"p50": round(statistics.median(back_s), 2), "p95": round(percentile(back_s, 0.95), 2), "max": round(max(back_s), 2)},
        "reconnects": status["camera"]["reconnects"],
        "parts": audit["parts"],
        "findings": audit["findings"],
        "violations": counts["violations"],
        "escapes": len(counts["escapes"]),
        "ok": audit["ok"] and percentile(back_s, 0.95) <= 5 and not counts["violations"],
    }


def reconnects() -> dict[str, Any]:
    """A camera that is lost and comes back, a thousand times: nothing is left behind in this process, nor on the machine."""
    Scene(DIRECTORY, MER).show([np.full((1024, 1280), 100, np.uint8)], noise=3)
    camera = isolated(MER)
    camera.start(SOFTWARE)
    streaming(camera)

    def belongings() -> dict[str, int]:
        status = Path("/proc/self/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0])
        children = sum(f"PPid:\t{os.getpid()}\n" in text for text in map(_text, Path("/proc").glob("[0-9]*/status")))
        shared = len([*Path("/dev/shm").iterdir()])
        return {"fds": len([*Path("/proc/self/fd").iterdir()]), "rss_kb": resident, "children": children, "shm": shared, "maps": _maps()}

    def lose_and_return(number: int) -> None:
        camera.trigger()
        assert camera.fetch(5)
        if number % 2:
            os.kill(camera_process(os.getpid()) or 0, signal.SIGKILL)
        else:
            tell(DIRECTORY, MER, "error read 1")
            tell(DIRECTORY, MER, "lost")
        until(lambda: camera.status().state is not CameraState.STREAMING, 20, "the loss")
        tell(DIRECTORY, MER, "back")
        streaming(camera)

    for number in range(20):
        lose_and_return(number)
    before = belongings()
    begun = time.monotonic()
    for number in range(RECONNECTS):
        lose_and_return(number)
    after = belongings()
    taken_s = time.monotonic() - begun
    camera.close()
    grown_kb = after["rss_kb"] - before["rss_kb"]
    same = all(after[name] <= before[name] + 1 for name in ("fds", "children", "shm", "maps"))
    return {
        "reconnects": RECONNECTS,
        "s_each": round(taken_s / RECONNECTS, 2),
        "before": before,
        "after": after,
        "ok": same and grown_kb < 2000,
    }


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _maps() -> int:
    return Path("/proc/self/maps").read_text().count("\n")


def canary() -> dict[str, Any]:
    """A loop that asks the camera every millisecond, while the camera hangs, crashes, goes and comes back; beside one that asks nothing."""

    def worst(turn: Callable[[], None], seconds: float, disturb: Callable[[int], None]) -> list[float]:
        late_ms, begun, disturbed = [], time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            if time.monotonic() - begun > 2 * disturbed:
                disturb(disturbed)
                disturbed += 1
            before = time.perf_counter()
            turn()
            late_ms.append((time.perf_counter() - before) * 1e3)
            time.sleep(0.001)
        return late_ms

    camera = isolated(MQ)
    camera.start(FREE)
    streaming(camera)

    def ask() -> None:
        camera.status()
        with contextlib.suppress(CameraError):
            camera.fetch(0)

    faults = ("hang read 3000", "crash fetch", "lost", "back", "hang fetch 3000", "error read 5", "crash read", "stall 1000")

    def break_it(number: int) -> None:
        if number % 5 == 4 and (pid := camera_process(os.getpid())):
            os.kill(pid, random.Random(number).choice([signal.SIGKILL, signal.SIGSTOP]))
        tell(DIRECTORY, MQ, faults[number % len(faults)])

    with real_time() as refused:
        quiet = worst(lambda: None, 10, lambda _number: None)
        asked = worst(ask, CANARY_S, break_it)
    reconnects = camera.status().reconnects
    camera.close()
    figures = {
        name: {"p99": round(percentile(ms, 0.99), 3), "max": round(max(ms), 3)} for name, ms in (("quiet", quiet), ("faults", asked))
    }
    over = sum(ms > 5 for ms in asked)
    return {
        "turns": len(asked),
        "turn_ms": figures,
        "over_5_ms": over,
        "reconnects": reconnects,
        "priority": refused or "real time",
        "ok": over == 0 and reconnects >= CANARY_S / 10,
    }


SOAKS: dict[str, Callable[[], dict[str, Any]]] = {
    "stream 1.3 MP": lambda: stream(MER, "Mono8", 75.0),
    "stream 4.2 MP": lambda: stream(MQ, "BayerGB8", 90.0),
    "canary": canary,
    "kills": kills,
    "reconnects": reconnects,
}


def main(words: list[str]) -> int:
    ok = True
    for name, soak in SOAKS.items():
        if words and not any(name.startswith(word) for word in words):
            continue
        report = soak()
        ok &= report["ok"]
        print(f"{name}: {json.dumps(report)}", flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
