"""Which GenTL producers a machine has, and which cameras each of them sees.

Every producer is asked in a process of its own, for a limited time: a file that is no producer, or a vendor's code that crashes or hangs,
costs its own answer and nothing else.
"""

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drivers.camera import CameraError
from drivers.simulated.build import PRODUCER, BuildError, build

AUTO, SIMULATED = "auto", "simulated"
SEARCH_PATH = "GENICAM_GENTL64_PATH"
USUAL_PLACES = (
    ("/usr/lib/GxGVTL.cti",),  # Daheng Galaxy, GigE; its installer sets no search path
    ("/usr/lib/GxU3VTL.cti",),  # Daheng Galaxy, USB3
    ("/opt/XIMEA/lib/ximea.gentl2.cti", "/opt/XIMEA/lib/ximea.gentl.cti", "/opt/XIMEA/lib/libXIMEA_GenTL.cti"),  # newest first
)
"""Where vendors' installers put their producers; of several in a row the first that is there counts."""
LISTING_S = 20.0
FEATURES_S = 60.0
Access = Literal["free", "read only", "held", "not told"]


@dataclass(frozen=True, slots=True)
class FoundFeature:
    """One feature of an open camera, at this moment.

    Attributes:
        type: Integer, Float, Boolean, Enumeration, String, Command or Register.
        access: RW, RO or WO; NA for one that is not available now.
        value: None for a command, a register, whatever cannot be read now, and a Float that is no finite number.
        minimum, maximum, increment: of an Integer or a Float that can be written now.
        entries: of an Enumeration that can be written now, those available.
    """

    name: str
    category: str
    type: str
    access: str
    value: bool | int | float | str | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    increment: int | float | None = None
    entries: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True, slots=True)
class FoundInterface:
    """A network card, a USB controller, or whatever the producer calls an interface; addresses are empty where it does not tell them."""

    id: str
    display_name: str
    tl_type: str
    mac_address: str = ""


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """A camera as its producer lists it; a text is empty where the producer does not tell it.

    Attributes:
        tl_type: GenTL's transport layer type, such as GEV or U3V.
        access: `free`, `read only` or `held` (by another program or another computer), as the producer says; some say `free` of any.
        interface: the id of its `FoundInterface`.
        ip_address, mac_address: of a GigE camera, when the interface's features list them.
        features: empty unless asked for.
        trouble: why there are no features although they were asked for.
    """

    id: str
    vendor: str
    model: str
    serial_number: str
    user_defined_name: str
    display_name: str
    tl_type: str
    access: Access
    interface: str
    ip_address: str = ""
    mac_address: str = ""
    features: tuple[FoundFeature, ...] = ()
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What one producer sees. `remarks`: what it could not look into, in words."""

    interfaces: tuple[FoundInterface, ...] = ()
    devices: tuple[FoundDevice, ...] = ()
    remarks: tuple[str, ...] = ()


def producers(
    configured: Sequence[str], home: Path, environ: Mapping[str, str], usual_places: Iterable[Sequence[str]] = USUAL_PLACES
) -> tuple[Path, ...]:
    """The producers that `camera.producers` means, in its order, each once. Only those of `auto` are known to be there.

    Args:
        configured: paths, relative ones from `home` on; `simulated`; or `auto` for every `*.cti` in the folders of GENICAM_GENTL64_PATH,
            then what the vendors' installers leave in their usual places.
        environ: the environment. A service does not see what an installer put into /etc/profile.d.

    Raises:
        CameraError: `auto` finds nothing and nothing else is named; the message names every place.
    """
    search_path = [folder for folder in environ.get(SEARCH_PATH, "").split(":") if folder]
    found: dict[Path, Path] = {}
    for name in configured:
        if name == AUTO:
            paths = [*_in_folders(search_path), *_in_usual_places(usual_places)]
        else:
            paths = [PRODUCER if name == SIMULATED else home / name]
        for path in paths:
            found.setdefault(path.resolve(), path)
    if not found:
        places = ", ".join(path for group in usual_places for path in group)
        raise CameraError(
            f"camera.producers: auto finds no GenTL producer: {SEARCH_PATH} is {':'.join(search_path) or 'not set'}"
            f"{', where there is no .cti file' if search_path else ''}, and none of these is there: {places}. "
            "Install the camera vendor's software, or write its .cti file's path into camera.producers"
        )
    return tuple(found.values())


def is_simulated(producer: Path) -> bool:
    """Whether it is the simulated cameras' producer."""
    return producer == PRODUCER


def look(producer: Path, *, features: bool = False, environ: Mapping[str, str] | None = None, limit_s: float | None = None) -> Found | str:
    """What the producer sees, or in words why it cannot be used. Never raises, and never takes much longer than `limit_s`.

    Nothing is opened unless features are asked for; then each device is, for as long as it takes to read them: for itself alone, or only
    to be read where another program has it. Nothing is written to a device.

    Args:
        features: also read every feature of every device.
        environ: the environment the producer sees; this process's own by default.
        limit_s: by default LISTING_S, or FEATURES_S with features.
    """
    if is_simulated(producer):
        try:
            build()
        except BuildError as error:
            return str(error)
    limit_s = limit_s or (FEATURES_S if features else LISTING_S)
    command = [sys.executable, "-P", "-m", "drivers.genicam_listing", str(producer), "features" if features else "devices"]
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
    except OSError as error:
        return f"{producer}: no process can be started to look through it: {error}"
    try:
        told, said = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"{producer} did not list its cameras within {limit_s:g} s; look with the vendor's own viewer, and at cables and power"
    finally:
        _end(child)
    if child.returncode != 0:
        return f"{producer} {_ending(child.returncode)}{_last_line(said)}"
    answer: Found | str = pickle.loads(told)
    return answer


def _in_folders(folders: Iterable[str]) -> list[Path]:
    return [path for folder in folders for path in sorted(Path(folder).glob("*.cti"))]


def _in_usual_places(places: Iterable[Sequence[str]]) -> list[Path]:
    return [there[0] for group in places if (there := [Path(path) for path in group if Path(path).is_file()])]


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kills what still runs, and does not wait for one that hangs in the kernel."""
    child.kill()
    with suppress(subprocess.TimeoutExpired):
        child.wait(1)
    for pipe in (child.stdout, child.stderr):
        if pipe:
            pipe.close()


def _ending(code: int) -> str:
    if code > 0:
        return f"ended the process that asked it for its cameras (code {code})"
    how = signal.strsignal(-code) or f"signal {-code}"
    if -code in {signal.SIGKILL, signal.SIGTERM}:
        return f"did not come to list its cameras: its process was ended from outside ({how}), out of memory perhaps; try again"
    return (
        f"crashed while it was asked for its cameras ({how}): it is no GenTL producer, or the vendor's software is broken; install it anew"
    )


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()}" if lines else ""
