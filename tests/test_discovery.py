"""Producers are found where they are; whatever is asked for its cameras answers with them or with words; `station cameras` says both."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import genicam
import pytest
from conftest import STATION, daemon, make_home, station, until

from drivers.camera import CameraError
from drivers.discovery import Found, look, producers
from drivers.simulated.build import PRODUCER, build
from station import camera_checks, cameras, config
from station.config import Home

MER, MQ = "SIM-MER131", "SIM-MQ042"
VIKY = Path(genicam.__file__).parent / "viky.cti"
NO_PLACES: tuple[tuple[str, ...], ...] = ()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "simulated").mkdir()
    return {**os.environ, "STATION_SIMULATED_DIR": str(tmp_path / "simulated"), "STATION_SIMULATED_PROFILES": ""}


@pytest.fixture
def faults(tmp_path: Path) -> Callable[[str, str], None]:
    """Writes orders that are in force from the enumeration on."""

    def write(serial: str, orders: str) -> None:
        (tmp_path / "simulated" / f"{serial}.faults").write_text(orders + "\n")

    return write


def seen(producer: Path, **options: Any) -> Found:
    found = look(producer, **options)
    assert isinstance(found, Found), found
    return found


def no_producer(folder: Path, source: str = "int nothing;", name: str = "vendor.cti") -> Path:
    path = folder / name
    (folder / "source.c").write_text(source)
    subprocess.run([os.environ.get("CC") or "cc", "-shared", "-fPIC", "-o", str(path), str(folder / "source.c")], check=True)
    return path


# ---- where producers are


def test_auto_takes_the_search_path_in_its_order_then_the_usual_places(tmp_path: Path) -> None:
    for name in ("b/two.cti", "b/one.cti", "a/three.cti", "b/readme.txt", "opt/old.cti", "opt/new.cti", "lib/vendor.cti"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    usual = [[f"{tmp_path}/lib/vendor.cti"], [f"{tmp_path}/opt/newest.cti", f"{tmp_path}/opt/new.cti", f"{tmp_path}/opt/old.cti"]]
    search = {"GENICAM_GENTL64_PATH": f"{tmp_path}/b::{tmp_path}/a:{tmp_path}/not-there"}
    found = producers(["auto"], tmp_path, search, usual)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["b/one.cti", "b/two.cti", "a/three.cti", "lib/vendor.cti", "opt/new.cti"]


def test_an_empty_place_in_the_search_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stray.cti").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CameraError, match="GENICAM_GENTL64_PATH is not set"):
        producers(["auto"], tmp_path, {"GENICAM_GENTL64_PATH": ":"}, NO_PLACES)


def test_a_producer_that_is_named_twice_or_by_a_link_is_taken_once(tmp_path: Path) -> None:
    (tmp_path / "one.cti").touch()
    (tmp_path / "link.cti").symlink_to("one.cti")
    named = ["link.cti", "one.cti", f"{tmp_path}/one.cti", "auto"]
    assert producers(named, tmp_path, {"GENICAM_GENTL64_PATH": str(tmp_path)}, NO_PLACES) == (tmp_path / "link.cti",)


def test_a_named_path_counts_from_the_home_and_need_not_be_there(tmp_path: Path) -> None:
    found = producers(["vendor/x.cti", "/opt/y.cti", "simulated"], tmp_path, {}, NO_PLACES)
    assert found == (tmp_path / "vendor/x.cti", Path("/opt/y.cti"), PRODUCER)


def test_where_auto_finds_nothing_all_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=rf"GENICAM_GENTL64_PATH is {tmp_path}.*{tmp_path}/lib/vendor\.cti.*camera\.producers"):
        producers(["auto"], tmp_path, {"GENICAM_GENTL64_PATH": str(tmp_path)}, [[f"{tmp_path}/lib/vendor.cti"]])


# ---- what a producer answers


def test_a_camera_is_listed_with_all_its_producer_tells(environ: dict[str, str]) -> None:
    mer, mq = seen(PRODUCER, environ=environ).devices
    assert (mer.vendor, mer.model, mer.serial_number, mer.tl_type) == ("Daheng Imaging (simulated)", "MER-131-75GC-P", MER, "GEV")
    assert (mq.serial_number, mq.tl_type, mq.access, mq.interface, mq.features) == (MQ, "U3V", "free", "simulated", ())


def test_a_serial_number_that_only_the_interface_tells_is_found(environ: dict[str, str]) -> None:
    environ["STATION_SIMULATED_PROFILES"] = "daheng"
    mer, _ = seen(PRODUCER, environ=environ).devices
    assert (mer.id, mer.serial_number) == ("MER-131-75GC-P(02-00-00-00-01-31)", MER)
    assert mer.mac_address == "02:00:00:00:01:31"


def test_features_come_with_type_access_value_range_and_unit(environ: dict[str, str]) -> None:
    mer, _ = seen(PRODUCER, features=True, environ=environ).devices
    features = {feature.name: feature for feature in mer.features}
    width, exposure = features["Width"], features["ExposureTime"]
    assert (width.type, width.access, width.category) == ("Integer", "RW", "ImageFormatControl")
    assert (width.value, width.minimum, width.maximum, width.increment) == (1280, 16, 1280, 4)
    assert (exposure.type, exposure.unit, exposure.minimum, exposure.maximum) == ("Float", "us", 20.0, 1e6)
    assert features["PixelFormat"].entries == ("Mono8", "BayerRG8")
    assert (features["DeviceSerialNumber"].value, features["DeviceSerialNumber"].access) == (MER, "RO")
    assert (features["TriggerSoftware"].type, features["TriggerSoftware"].value) == ("Command", None)
    assert "TLParamsLocked" not in features, "it is invisible, and no recipe's business"


def test_a_foreign_producer_is_listed_too() -> None:
    found = seen(VIKY, features=True)
    assert [device.serial_number for device in found.devices] == ["0", "1", "2"]
    assert {feature.name: feature.value for feature in found.devices[2].features}["PixelFormat"] == "RGBa8"


def test_a_denied_camera_is_listed_and_says_why_its_features_are_not(environ: dict[str, str], faults: Callable[[str, str], None]) -> None:
    faults(MER, "error open always")
    mer, mq = seen(PRODUCER, features=True, environ=environ).devices
    assert (mer.features, mer.trouble.partition(",")[0]) == ((), "held by another program or another computer")
    assert mq.features


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("int nothing;", "is not a GenTL producer: it has no GCInitLib"),
        ("int GCInitLib(void) { return 0; }", r"crashed while .*\(Segmentation fault\)"),
        ("#include <stdlib.h>\n__attribute__((constructor)) static void go(void) { exit(7); }", r"ended the process .*\(code 7\)"),
        ('#include <stdio.h>\n__attribute__((constructor)) static void say(void) { puts("vendor\'s banner"); }', "is not a GenTL producer"),
    ],
    ids=["without-GCInitLib", "with-nothing-else", "that-exits", "that-prints"],
)
def test_a_library_that_is_no_producer_is_told_in_words(tmp_path: Path, source: str, words: str) -> None:
    path = no_producer(tmp_path, source)
    answer = look(path)
    assert isinstance(answer, str)
    assert str(path) in answer
    assert re.search(words, answer)


def test_a_file_that_is_not_there_or_no_library_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "text.cti").write_text("not a library")
    assert "does not exist" in str(look(tmp_path / "none.cti"))
    assert "cannot be loaded" in str(look(tmp_path / "text.cti"))


def test_a_producer_that_does_not_start_says_why_itself(environ: dict[str, str], tmp_path: Path) -> None:
    environ["STATION_SIMULATED_DIR"] = str(tmp_path / "not/there")
    answer = str(look(PRODUCER, environ=environ))
    assert answer.startswith(f"{PRODUCER} does not start: ")
    assert f"{tmp_path}/not/there" in answer


def test_a_producer_that_hangs_is_ended_in_time(environ: dict[str, str], faults: Callable[[str, str], None]) -> None:
    faults(MQ, "hang update")
    assert "did not list its cameras within 1 s" in str(look(PRODUCER, environ=environ, limit_s=1))
    faults(MQ, "")
    assert len(seen(PRODUCER, environ=environ).devices) == 2


def test_a_producer_killed_while_it_lists_is_told_in_words(tmp_path: Path) -> None:
    killed = no_producer(tmp_path, "#include <signal.h>\n__attribute__((constructor)) static void go(void) { raise(SIGKILL); }")
    assert "was ended from outside (Killed)" in str(look(killed))


# ---- station cameras


def ran(home: Path, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [*STATION, "--home", str(home), "cameras", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environ})


def test_station_cameras_lists_for_people_and_for_scripts(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    people = ran(home, STATION_SIMULATED_PROFILES="daheng")
    assert people.returncode == 0, people.stderr
    row = next(line for line in people.stdout.splitlines() if MER in line)
    assert row.split() == [MER, "Daheng", "Imaging", "(simulated)", "MER-131-75GC-P", "GEV", "02:00:00:00:01:31", "free"]
    (one,) = station(home, "cameras", "--features")
    assert (one["producer"], one["error"], len(one["devices"])) == (str(PRODUCER), "", 2)
    features = {feature["name"]: feature for feature in one["devices"][1]["features"]}
    assert (features["Width"]["value"], features["ExposureTime"]["unit"]) == (2048, "us")


def test_features_are_a_table_below_their_camera(tmp_path: Path) -> None:
    shown = ran(make_home(tmp_path / "home"), "--features").stdout.splitlines()
    cells = [line.split() for line in shown]
    at = next(number for number, line in enumerate(cells) if MQ in line)
    assert ["Width", "RW", "2048", "16", "to", "2048", "in", "steps", "of", "4"] in cells[at:]
    assert ["ExposureTime", "RW", "2000", "us", "30", "to", "1000000"] in cells[at:]


def test_a_producer_that_fails_is_a_finding_and_the_others_are_listed(tmp_path: Path) -> None:
    build()
    vendor = no_producer(tmp_path, "int GCInitLib(void) { return 0; }")
    home = make_home(tmp_path / "home", camera={"producers": [str(vendor), "missing.cti", "simulated"]})
    broken, missing, simulated = station(home, "cameras", code=1)
    assert ("crashed" in broken["error"], "does not exist" in missing["error"], len(simulated["devices"])) == (True, True, 2)
    assert "ERROR" in ran(home).stdout


def test_without_any_camera_the_exit_code_says_unreachable(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", camera={"producers": ["missing.cti"]})
    assert [one["devices"] for one in station(home, "cameras", code=3)] == [[]]
    (home / "data/simulated").mkdir(parents=True)
    for serial in (MER, MQ):
        (home / f"data/simulated/{serial}.unplugged").touch()
    unplugged = make_home(tmp_path / "unplugged")
    shutil.copytree(home / "data", unplugged / "data")
    none = ran(unplugged)
    assert (none.returncode, none.stdout.splitlines()[1]) == (3, "  no camera; it looked at simulated")


def test_a_camera_that_crashes_its_producer_is_still_listed(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home / "data/simulated").mkdir(parents=True)
    (home / f"data/simulated/{MER}.faults").write_text("crash open\n")
    (one,) = station(home, "cameras", "--features", code=1)
    assert "crashed" in one["error"]
    assert [device["serial_number"] for device in one["devices"]] == [MER, MQ]


def test_a_missing_configuration_is_named_and_no_traceback_comes(tmp_path: Path) -> None:
    wrong = ran(tmp_path)
    assert (wrong.returncode, "station.yaml" in wrong.stderr, "Traceback" in wrong.stderr) == (2, True, False)


def test_the_running_station_keeps_its_camera_and_is_named(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", prepare="bulb")
    with daemon(home):
        until(lambda: cameras.running_camera(Home(home)).streaming, 60, "the station streams")
        before = station(home, "status")["camera"]["reconnects"]
        (one,) = station(home, "cameras", "--features")
        free, held = one["devices"]
        assert (free["access"], held["access"], held["features"]) == ("free", "station", [])
        assert "held by another program" in held["trouble"]
        assert "held by the running station" in cameras.lines([one])
        of = {check.check: check for check in camera_checks.examine(Home(home), config.load(Home(home)), Path("/"))}
        assert (of["camera"].status, of["camera"].detail.endswith("held by the running station")) == ("ok", True)
        after = station(home, "status")["camera"]
        assert (after["state"], after["reconnects"]) == ("streaming", before)
