"""`python -m drivers.simulated`: the cameras without station, driver and Harvesters; and the page about them."""

import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drivers.simulated.build import build
from drivers.simulated.consumer import GenTLError, Producer
from drivers.simulated.scene import tell

REPOSITORY = Path(__file__).parents[1]
MER, MQ = "SIM-MER131", "SIM-MQ042"
PAGE = (REPOSITORY / "docs" / "simulated-producer.md").read_text()
SMALL = ("--set", "Width=64", "--set", "Height=32")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    build()
    monkeypatch.setenv("STATION_SIMULATED_DIR", str(tmp_path))
    monkeypatch.delenv("STATION_SIMULATED_PROFILES", raising=False)
    return tmp_path


def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(
        [sys.executable, "-m", "drivers.simulated", *words], capture_output=True, text=True, timeout=30, check=False, cwd=REPOSITORY
    )
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran


def streamed(*words: str) -> tuple[list[str], dict[str, int]]:
    """The lines said and the counts."""
    lines, _, counts = run("stream", *words).stdout.partition("{")
    return lines.splitlines(), json.loads("{" + counts)


def test_the_cameras_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [camera["serial"] for camera in json.loads(run("cameras").stdout)] == [MER, MQ]
    monkeypatch.setenv("STATION_SIMULATED_PROFILES", "daheng")
    assert [camera["serial"] for camera in json.loads(run("cameras").stdout)] == [None, MQ]


def test_a_stream_without_faults_has_nothing_to_remark() -> None:
    lines, counts = streamed(MQ, "--frames", "5", "--set", "PixelFormat=BayerGB8")
    assert counts == {"frames": 5}
    assert all(re.fullmatch(rf"frame {number} at \d+: 2048 x 2048, 4194304 bytes", line) for number, line in enumerate(lines))


@pytest.mark.parametrize(
    ("order", "counted"),
    [
        ("drop", {"frames": 3, "nothing came": 1, "numbers missing": 1}),
        ("duplicate", {"frames": 4, "the same bytes": 1, "the same number": 1}),
        ("badid", {"frames": 4, "numbers missing": 1, "counted backwards": 1}),
        ("incomplete", {"frames": 4, "incomplete": 1}),
        ("short", {"frames": 4, "too few bytes": 1}),
        ("larger", {"frames": 4, "larger than its buffer": 1}),
        ("noheight", {"frames": 4, "without a height": 1, "another size": 2}),
        ("wrongsize", {"frames": 4, "another size": 2}),
        ("notime", {"frames": 4, "without a timestamp": 1}),
        ("frozen", {"frames": 4, "the same bytes": 1}),
    ],
)
def test_a_fault_is_ordered_and_seen(order: str, counted: dict[str, int]) -> None:
    lines, counts = streamed(MER, "--frames", "4", "--trigger", "line0", *SMALL, "--order", f"1:{order}")
    assert counts == counted
    assert len(lines) == 5
    assert lines[1] == f"told: {order}"


def test_a_camera_that_tells_no_serial_number_is_found_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATION_SIMULATED_PROFILES", "daheng")
    assert streamed(MER, "--frames", "2", "--trigger", "software", *SMALL)[1] == {"frames": 2}


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["SIM-OTHER"], "no camera SIM-OTHER; there are SIM-MER131, SIM-MQ042"),
        ([MER, "--set", "Wdth=64"], "Wdth: the camera has no such feature"),
        ([MER, "--set", "Width=63"], "GCWritePort: register 2: 63 is not in 16..1280, step 4"),
        ([MER, "--set", "PixelFormat=BayerGB8"], "PixelFormat: BayerGB8 is none of Mono8, BayerRG8"),
        ([MER, "--set", "Width"], "--set Width: write the two parts with = between them"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cause(words: list[str], cause: str) -> None:
    assert cause in run("stream", *words, code=2).stderr


def test_an_unknown_profile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATION_SIMULATED_PROFILES", "basler")
    assert "basler is not one of daheng, ximea, formats" in run("cameras", code=2).stderr


@pytest.mark.parametrize("call", ["update", "open"])
def test_a_camera_that_is_not_open_can_crash_the_process_while_its_file_says_so(directory: Path, call: str) -> None:
    file = directory / f"{MER}.faults"
    file.write_text(f"crash {call}")
    run("stream", MER, code=-11)
    file.unlink()
    assert streamed(MER, "--frames", "1", *SMALL)[1] == {"frames": 1}


def test_an_order_reaches_a_camera_that_another_program_has_open() -> None:
    producer = Producer(build())
    producer.devices()
    with contextlib.closing(producer), producer.open(MER) as device:
        device.write("TriggerMode", "On")
        device.write("TriggerSource", "Line0")
        with device.stream() as frames:
            run("tell", MER, "line0")
            frame = frames.fetch(5000)
            assert frame is not None
            assert frame.frame_id == 0


def orders_of_the_page() -> list[str]:
    table = PAGE.partition("## Orders")[2].partition("## Formats")[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def test_every_order_of_the_page_is_obeyed(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    orders = [order for order in orders_of_the_page() if order not in ("lost", "back")]
    assert len(orders) > 25
    producer = Producer(build())
    producer.devices()
    with contextlib.closing(producer), producer.open(MER):
        for order in [*orders, "this is none"]:
            for name, value in {"CALL": "queue", "PERCENT": "90", "PPM": "50", "HZ": "1000", "MS": "1", "N": "1"}.items():
                order = re.sub(rf"\b{name}\b", value, order)  # noqa: PLW2901
            tell(directory, MER, order)
        complaints, until = "", time.monotonic() + 10.0
        while "this is none" not in complaints and time.monotonic() < until:
            complaints += capfd.readouterr().err
    assert complaints.splitlines() == [f"{MER}: not obeyed: this is none"]


def test_every_order_that_the_code_lists_is_on_the_page() -> None:
    comment = (REPOSITORY / "drivers/simulated/control.c").read_text().partition("#define")[0]
    words = {word for line in re.findall(r"^ \*   ([a-z0-9| A-Z]+?)  ", comment, re.MULTILINE) for word in re.findall(r"\b[a-z]\w+", line)}
    assert len(words) > 25
    assert words == {order.split()[0] for order in orders_of_the_page()}


def test_a_producer_is_loaded_once_at_a_time() -> None:
    producer = Producer(build())
    with contextlib.closing(producer), pytest.raises(GenTLError, match="called already"):
        Producer(build())
