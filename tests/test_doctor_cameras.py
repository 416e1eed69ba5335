"""`station doctor` for cameras: each setting that loses frames is found in /proc and /sys, with a command that mends it."""

import os
import re
from dataclasses import replace
from pathlib import Path

import genicam
import pytest
from conftest import REPOSITORY, make_home, station

from drivers.discovery import Access, Found, FoundDevice, FoundInterface
from drivers.simulated.build import PRODUCER
from station import camera_checks, config, link_checks
from station.cameras import Look, Running
from station.check import Check
from station.config import Home

VIKY = Path(genicam.__file__).parent / "viky.cti"
GIGE = FoundDevice("MER(00-21-49-00-00-01)", "Daheng Imaging", "MER-131-75GM-P", "KJ0210", "", "", "GEV", "free", "eth1", "192.168.5.10")
USB = FoundDevice("MQ042CG-CM", "XIMEA GmbH", "MQ042CG-CM", "41800851", "", "", "Custom", "free", "usb")
CARD, PLAIN = FoundInterface("eth1", "Intel I210", "GEV", "00:1b:21:00:00:02"), FoundInterface("usb", "", "Custom")
ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t010010AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000010AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth1\t0005A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


class Machine:
    """A /proc, /sys and /dev of our own: two network cards and a XIMEA camera on USB, all set well."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/net/route", ROUTES)
        self.write("proc/sys/net/core/rmem_max", "33554432")
        for card, mac, mtu in (("eth0", "00:1b:21:00:00:01", "1500"), ("eth1", "00:1b:21:00:00:02", "9000")):
            self.write(f"sys/class/net/{card}/address", mac)
            self.write(f"sys/class/net/{card}/mtu", mtu)
            self.write(f"sys/class/net/{card}/operstate", "up")
            self.write(f"sys/class/net/{card}/device/vendor", "0x8086")
            self.write(f"proc/sys/net/ipv4/conf/{card}/rp_filter", "0")
        self.write("sys/class/net/lo/address", "00:00:00:00:00:00")
        self.write("proc/sys/net/ipv4/conf/all/rp_filter", "0")
        self.write("sys/module/usbcore/parameters/usbfs_memory_mb", "1000")
        self.plug("2-1", "20f7", "XIMEA", "MQ042CG-CM", 7)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text + "\n")

    def plug(self, port: str, vendor: str, manufacturer: str, product: str, number: int, speed: str = "5000") -> Path:
        values = {
            "idVendor": vendor,
            "manufacturer": manufacturer,
            "product": product,
            "busnum": "2",
            "devnum": str(number),
            "speed": speed,
        }
        for name, value in values.items():
            self.write(f"sys/bus/usb/devices/{port}/{name}", value)
        self.write(f"dev/bus/usb/002/{number:03d}", "")
        return self.root / f"dev/bus/usb/002/{number:03d}"

    def says(self, *devices: tuple[FoundDevice, FoundInterface]) -> dict[str, Check]:
        checks = list(link_checks.examine(devices, self.root))
        assert all(check.fix if check.status in {"warn", "fail"} else not check.fix for check in checks)
        assert all((REPOSITORY / file).is_file() for check in checks for file in re.findall(r"systemd/\S+", check.fix))
        return {check.check: check for check in checks}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# ---- GigE


def test_a_machine_that_is_set_well_has_nothing_to_mend(machine: Machine) -> None:
    checks = machine.says((GIGE, CARD), (USB, PLAIN))
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(
        ("address", "mtu", "rmem_max", "rp_filter", "usb memory", "usb access"), "ok"
    )
    assert checks["address"].detail == "KJ0210 has 192.168.5.10 on eth1"
    assert checks["mtu"].detail == "eth1 9000", "the other card's is nobody's business"


@pytest.mark.parametrize(("mtu", "status"), [("1500", "warn"), ("8191", "warn"), ("8192", "ok")])
def test_packets_that_are_too_small_are_found_on_the_cameras_card(machine: Machine, mtu: str, status: str) -> None:
    machine.write("sys/class/net/eth1/mtu", mtu)
    check = machine.says((GIGE, CARD))["mtu"]
    assert check.status == status
    assert ("dev eth1 mtu 9000" in check.fix) is (status == "warn")


def test_the_card_is_known_by_its_hardware_address_or_by_the_route(machine: Machine) -> None:
    unnamed = replace(CARD, mac_address="")
    untold = replace(GIGE, ip_address="")
    assert machine.says((GIGE, unnamed))["mtu"].detail == "eth1 9000"
    assert machine.says((untold, CARD))["mtu"].detail == "eth1 9000"
    assert (machine.says((untold, CARD))["address"].status, machine.says((untold, unnamed))["mtu"].status) == ("skip", "ok")
    machine.write("sys/class/net/eth1/mtu", "1500")
    check = machine.says((untold, unnamed))["mtu"]
    assert (check.status, "eth0 1500, eth1 1500 (which one" in check.detail, "dev CARD" in check.fix) == ("warn", True, True)


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("192.168.5.10", "ok", "on eth1"),
        ("192.168.9.10", "fail", "in no network of a card"),
        ("172.16.3.4", "fail", "hangs on eth1 and has 172.16.3.4, which is reached by eth0"),
    ],
)
def test_an_address_must_be_in_the_network_of_the_cameras_card(machine: Machine, address: str, status: str, words: str) -> None:
    check = machine.says((replace(GIGE, ip_address=address), CARD))["address"]
    assert (check.status, words in check.detail) == (status, True), check
    if status == "fail":
        network = address.rpartition(".")[0]
        assert f"ip addr add {network}.1/24 dev eth1" in check.fix


def test_two_cards_in_one_network_are_found(machine: Machine) -> None:
    machine.write("proc/net/route", ROUTES + "eth0\t0005A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0")
    check = machine.says((GIGE, CARD))["address"]
    assert (check.status, "eth1, eth0 have that network" in check.detail) == ("fail", True), check


def test_a_route_that_is_down_is_none(machine: Machine) -> None:
    machine.write("proc/net/route", ROUTES.replace("0001\t0\t0\t0\t00FFFFFF", "0000\t0\t0\t0\t00FFFFFF"))
    assert machine.says((GIGE, CARD))["address"].status == "fail"


@pytest.mark.parametrize("told", ["", "fe80::1", "n/a", "0xC0A8050A"])
def test_what_is_no_address_is_not_told(machine: Machine, told: str) -> None:
    check = machine.says((replace(GIGE, ip_address=told), CARD))["address"]
    assert (check.status, check.detail) == ("skip", "KJ0210: its producer does not tell its IP address; it hangs on eth1")


def test_an_address_that_the_camera_chose_itself_is_a_warning(machine: Machine) -> None:
    machine.write("proc/net/route", ROUTES + "eth1\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0")
    check = machine.says((replace(GIGE, ip_address="169.254.7.8"), CARD))["address"]
    assert (check.status, "fixed address" in check.fix) == ("warn", True)


@pytest.mark.parametrize(("size", "status"), [("212992", "warn"), (str((8 << 20) - 1), "warn"), (str(8 << 20), "ok")])
def test_a_small_receive_buffer_is_found(machine: Machine, size: str, status: str) -> None:
    machine.write("proc/sys/net/core/rmem_max", size)
    check = machine.says((GIGE, CARD))["rmem_max"]
    assert (check.status, "sysctl -w net.core.rmem_max=33554432" in check.fix) == (status, status == "warn")


@pytest.mark.parametrize("where", ["all", "eth1"])
@pytest.mark.parametrize("value", ["1", "2"])
def test_a_reverse_path_filter_is_found_for_all_and_for_the_card(machine: Machine, where: str, value: str) -> None:
    machine.write(f"proc/sys/net/ipv4/conf/{where}/rp_filter", value)
    check = machine.says((GIGE, CARD))["rp_filter"]
    assert (check.status, f"net.ipv4.conf.{where}.rp_filter=0" in check.fix) == ("warn", True)


def test_another_cards_filter_does_not_matter(machine: Machine) -> None:
    machine.write("proc/sys/net/ipv4/conf/eth0/rp_filter", "1")
    assert machine.says((GIGE, CARD))["rp_filter"].status == "ok"


# ---- USB


@pytest.mark.parametrize(("limit", "status"), [("16", "warn"), ("999", "warn"), ("1000", "ok"), ("0", "ok")])
def test_too_little_usb_memory_is_found(machine: Machine, limit: str, status: str) -> None:
    machine.write("sys/module/usbcore/parameters/usbfs_memory_mb", limit)
    check = machine.says((USB, PLAIN))["usb memory"]
    assert (check.status, "echo 1000 | sudo tee" in check.fix) == (status, status == "warn")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_usb_camera_that_this_user_may_not_open_is_found(machine: Machine) -> None:
    machine.plug("2-1", "20f7", "XIMEA", "MQ042CG-CM", 7).chmod(0o400)
    check = machine.says((USB, PLAIN))["usb access"]
    assert (check.status, "60-station-cameras.rules" in check.fix) == ("fail", True)


def test_a_usb_camera_without_a_node_is_found(machine: Machine) -> None:
    machine.plug("2-1", "20f7", "XIMEA", "MQ042CG-CM", 7).unlink()
    check = machine.says((USB, PLAIN))["usb access"]
    assert (check.status, check.detail.startswith("XIMEA MQ042CG-CM: ")) == ("fail", True)


def test_a_slow_port_is_found(machine: Machine) -> None:
    machine.plug("2-1", "20f7", "XIMEA", "MQ042CG-CM", 7, speed="480")
    assert "connected at 480 Mbit/s" in machine.says((USB, PLAIN))["usb speed"].detail


def test_any_usb3_vision_device_is_a_camera_and_a_keyboard_is_none(machine: Machine) -> None:
    machine.plug("2-1", "046d", "Logitech", "Keyboard", 7)
    assert machine.says((USB, PLAIN))["usb access"].status == "skip"
    machine.write("sys/bus/usb/devices/2-1:1.0/bInterfaceClass", "ef")
    machine.write("sys/bus/usb/devices/2-1:1.0/bInterfaceSubClass", "05")
    assert machine.says((USB, PLAIN))["usb access"].detail.startswith("Logitech Keyboard: ")


# ---- what matters to whom


def test_only_what_these_cameras_hang_on_is_looked_at(machine: Machine) -> None:
    for path in ("idVendor", "busnum", "devnum"):
        (machine.root / "sys/bus/usb/devices/2-1" / path).unlink()
    assert machine.says((GIGE, CARD))["usb"].status == "skip"
    assert machine.says((USB, PLAIN))["network"].status == "skip"
    assert not machine.says((USB, PLAIN)).keys() & {"mtu", "rmem_max", "rp_filter"}


def test_without_any_camera_everything_is_looked_at(machine: Machine) -> None:
    assert machine.says().keys() == {"mtu", "rmem_max", "rp_filter", "usb memory", "usb access"}


def test_a_machine_that_tells_nothing_is_not_blamed(tmp_path: Path) -> None:
    statuses = {check.check: check.status for check in link_checks.examine([], tmp_path)}
    assert statuses == {"mtu": "skip", "rmem_max": "skip", "rp_filter": "ok", "usb memory": "skip", "usb access": "skip"}


# ---- the camera


def camera_check(*devices: FoundDevice, serial_number: str = "KJ0210", running: Running | None = None) -> Check:
    return camera_checks.camera(devices, serial_number, running or Running())


def test_the_configured_camera_is_there_and_free() -> None:
    assert camera_check(USB, GIGE) == Check("camera", "ok", "KJ0210 (Daheng Imaging MER-131-75GM-P) is there and free")


@pytest.mark.parametrize("name", ["KJ0210", "left", "00-21-49-00-00-01"])
def test_a_camera_goes_by_serial_number_by_name_and_by_id(name: str) -> None:
    named = replace(GIGE, user_defined_name="left")
    silent = replace(GIGE, serial_number="")
    assert camera_check(silent if name.startswith("00") else named, serial_number=name).status == "ok"


def test_a_part_of_the_id_names_no_camera_that_tells_its_serial_number() -> None:
    assert camera_check(GIGE, serial_number="00-21-49").status == "fail"


def test_the_link_of_the_configured_camera_matters_and_of_all_where_it_is_not_seen() -> None:
    looks = [
        Look(Path("gige.cti"), Found((CARD,), (GIGE,))),
        Look(Path("usb.cti"), Found((PLAIN,), (USB,))),
        Look(PRODUCER, Found((CARD,), (GIGE,))),
    ]
    assert camera_checks.links(looks, "41800851") == [(USB, PLAIN)]
    assert camera_checks.links(looks, "another") == [(GIGE, CARD), (USB, PLAIN)]


def test_a_camera_that_another_program_holds_is_a_failure() -> None:
    check = camera_check(replace(GIGE, access="held"))
    assert (check.status, "held by another program" in check.detail, "vendor's viewer" in check.fix) == ("fail", True, True)


@pytest.mark.parametrize("access", ["held", "free"])
def test_a_camera_that_the_running_station_holds_is_well(access: Access) -> None:
    running = Running("KJ0210", streaming=True)
    assert camera_check(replace(GIGE, access=access), running=running).detail.endswith("held by the running station")
    assert camera_check(replace(GIGE, access="held"), running=Running("KJ0210")).status == "ok", "also while it does not stream"
    assert camera_check(replace(GIGE, access="held"), running=Running("another", streaming=True)).status == "fail"


def test_a_camera_that_is_not_there_is_a_failure_that_names_those_that_are() -> None:
    check = camera_check(USB)
    assert (check.status, "41800851" in check.detail) == ("fail", True)
    assert camera_check().detail == "there is none"


def test_a_camera_that_tells_no_serial_number_may_be_the_one() -> None:
    check = camera_check(replace(GIGE, serial_number=""))
    assert (check.status, "cameras --features" in check.fix) == ("warn", True)


def test_without_a_serial_number_there_must_be_one_camera() -> None:
    assert camera_check(GIGE, serial_number="").status == "ok"
    assert camera_check(GIGE, GIGE, serial_number="").status == "ok", "the same one through two producers"
    assert camera_check(GIGE, USB, serial_number="").status == "fail"


# ---- all of it


def test_the_doctor_finds_the_simulated_camera_and_skips_its_link(tmp_path: Path) -> None:
    of = {check["check"]: check for check in station(make_home(tmp_path / "home"), "doctor")}
    assert (of["producer"]["status"], of["camera"]["status"], of["camera link"]["status"]) == ("ok", "ok", "skip")
    assert "SIM-MQ042" in of["camera"]["detail"]


def test_both_serial_ports_are_looked_at(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", plc={"port": "/dev/tty-of-the-wire", "lines_port": "/dev/tty-of-the-lines"}, simulation=None)
    found = [check for check in station(home, "doctor", code=None) if check["check"] == "serial port"]
    assert [(check["status"], check["detail"]) for check in found] == [
        ("fail", "/dev/tty-of-the-wire is not there"),
        ("fail", "/dev/tty-of-the-lines is not there"),
    ]
    assert ["plc.port" in found[0]["fix"], "plc.lines_port" in found[1]["fix"]] == [True, True]


def test_a_producer_that_fails_is_named_and_every_setting_looked_at(machine: Machine, tmp_path: Path) -> None:
    home = Home(make_home(tmp_path / "home", camera={"producers": ["missing.cti"], "serial_number": "KJ0210"}))
    of = {check.check: check for check in camera_checks.examine(home, config.load(home), machine.root)}
    assert (of["producer"].status, "does not exist" in of["producer"].detail, bool(of["producer"].fix)) == ("fail", True, True)
    assert (of["camera"].status, of.keys() >= {"mtu", "rmem_max", "rp_filter", "usb memory", "usb access"}) == ("fail", True)


def test_only_the_configured_cameras_link_is_looked_at(machine: Machine, tmp_path: Path) -> None:
    home = Home(make_home(tmp_path / "home", camera={"producers": [str(VIKY)], "serial_number": "1"}))
    of = {check.check: check for check in camera_checks.examine(home, config.load(home), machine.root)}
    assert (of["camera"].status, of["network"].status) == ("ok", "skip")
    assert of["producer"].detail == f"{VIKY}: cameras: 3, interfaces: 1"
