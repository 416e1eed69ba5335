"""Faults of the camera, its producer and its light. Most are the orders of docs/simulated-producer.md."""

import os
import signal
from collections.abc import Generator
from dataclasses import replace

from fault import FREE, LINKS, PLC_COUNTS, Act, Fault, act, any_of, done, error, failed, goes_on, refused, rejected
from plant import BULB, IRON, PREPARE, Plant

_MISSED = failed("missed frame")
_NOT_WHOLE = failed("missed frame", "inspection error")
_LOST = any_of(error(1))


def _order(*orders: str) -> Act:
    """Told while the line runs; ended afterwards where it would go on."""

    @act
    def happens(line: Plant) -> Generator[None]:
        before = line.camera_did()
        for order in orders:
            line.camera(order)
        yield
        line.prove_camera(before, *orders)

    return happens


def _for_good(order: str, end: str) -> Act:
    """Holds until the PLC has seen it, and every part in the meantime is one that nobody saw."""

    @act
    def happens(line: Plant) -> Generator[None]:
        before = line.camera_did()
        line.camera(order)
        line.prove_camera(before, order)
        line.pause(0.2)  # the frame under way may be of before
        with line.tainted(order):
            yield
            line.pause(0.3)
        line.pause(0.4)  # the last of those parts is exposed by now
        line.camera(end)

    return happens


def _comes_back(*orders: str) -> Act:
    """Unplugged, and when it is plugged in again it is like this."""

    @act
    def happens(line: Plant) -> Generator[None]:
        before = line.camera_did()
        with line.camera_file(*orders) if orders else line.camera_file("drop 0"):
            line.camera("lost")
            line.prove_camera(before, "lost")
            try:
                yield
                line.pause(0.2)
            finally:
                line.camera("back")
            line.prove_camera(before, *orders)
            line.pause(0.5)
            for order in orders:
                if order.split()[0] in ("noserial", "nullrevoke"):
                    line.camera(f"{order.split()[0]} 0")

    return happens


def _at_changeover(*orders: str) -> Act:
    """Told just before the PLC asks for the other product, for which the camera is stopped, written to and started."""

    @act
    def happens(line: Plant) -> Generator[None]:
        before = line.camera_did()
        for order in orders:
            line.camera(order)
        line.say(PREPARE, IRON)
        yield
        line.prove_camera(before, *orders)
        line.camera(orders[0].rpartition(" ")[0] + " 0" if orders[0].endswith("always") else "drop 0")

    return happens


@act
def _power_cycle(line: Plant) -> Generator[None]:
    line.camera("lost")
    line.pause(0.05)
    line.camera("back")
    yield


def _drifting(ppm: int) -> Act:
    """From here on its time is of a clock of its own, in ticks."""

    @act
    def happens(line: Plant) -> Generator[None]:
        before, orders = line.camera_did(), ("clock 125000000", f"drift {ppm}")
        for order in orders:
            line.camera(order)
        line.pause(1.0)
        line.mark()
        yield
        line.prove_camera(before, *orders)
        line.camera("drift 0")
        line.camera("clock 0")

    return happens


@act
def _sixteen_bits(line: Plant) -> Generator[None]:
    """Opened anew it counts from 1, as such a camera does: one that has counted 0 would come round to 0."""
    with line.camera_file("idbits 16"):
        line.camera("lost")
        line.wait(error(1), 3.0, "the camera is away")
        line.camera("back")
        line.run(BULB)
    before = line.camera_did()
    line.mark()
    line.camera("id 65534")
    yield
    line.prove_camera(before, "id 65534")
    line.pause(0.5)  # until it has come round


@act
def _killed(line: Plant) -> Generator[None]:
    os.kill(line.camera_pid(), signal.SIGKILL)
    yield


@act
def _stopped(line: Plant) -> Generator[None]:
    pid = line.camera_pid()
    line.mark()
    os.kill(pid, signal.SIGSTOP)
    yield
    line.pause(line.chance.uniform(0, 2))
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return


_FAULTS = [
    Fault("frame lost", "camera", "one frame is lost on its way", "FAIL, missed frame", _MISSED, 1.0, _order("drop 1")),
    Fault("frames lost", "camera", "five frames in a row are lost", "FAIL, missed frame", _MISSED, 1.0, _order("drop 5")),
    Fault("frame incomplete", "camera", "half of the lines come, flagged", "FAIL, not inspected", _NOT_WHOLE, 1.0, _order("incomplete 1")),
    Fault("frame short", "camera", "half of the bytes come, not flagged", "FAIL, not inspected", _NOT_WHOLE, 1.0, _order("short 1")),
    Fault(
        "frame of another size",
        "camera",
        "half of the height, told as if right",
        "FAIL, not inspected",
        _NOT_WHOLE,
        1.0,
        _order("wrongsize 1"),
    ),
    Fault("frame without height", "camera", "the height is told as 0", "FAIL, not inspected", _NOT_WHOLE, 1.0, _order("noheight 1")),
    Fault(
        "frame larger than its buffer", "camera", "payload flagged as too large", "FAIL, not inspected", _NOT_WHOLE, 1.0, _order("larger 1")
    ),
    Fault("frame twice", "camera", "the same number, time and bytes again", "the line goes on", goes_on, 3.0, _order("duplicate 1")),
    Fault("frame late", "camera", "comes 700 ms late, after the next ones", "FAIL, missed frame", _MISSED, 1.0, _order("late 700 1")),
    Fault("frame slow", "camera", "comes 150 ms late", "the line goes on", goes_on, 3.0, _order("late 150 1")),
    Fault(
        "frame number wrong", "camera", "its complement", "the line goes on, or Error 1", any_of(goes_on, error(1)), 4.0, _order("badid 1")
    ),
    Fault(
        "frame numbers begin anew",
        "camera",
        "the next frame has number 1",
        "the line goes on, or Error 1",
        any_of(goes_on, error(1)),
        4.0,
        _order("id 1"),
    ),
    Fault(
        "frame numbers of 16 bits",
        "camera",
        "65534, 65535, 1 as in GigE Vision 1",
        "the line goes on",
        goes_on,
        8.0,
        _sixteen_bits,
    ),
    Fault("no timestamps", "camera", "three frames without a time", "the line goes on", goes_on, 4.0, _order("notime 3")),
    Fault("camera's clock too fast", "camera", "5,000 ppm, for a second", "the line goes on", goes_on, 4.0, _drifting(5_000)),
    Fault("camera's clock too slow", "camera", "400 ppm, for a second", "the line goes on", goes_on, 4.0, _drifting(-400)),
    Fault(
        "sensor frozen", "camera", "the bytes of the frame before, three times", "FAIL, not inspected", _NOT_WHOLE, 1.0, _order("frozen 3")
    ),
    Fault("sensor stands still", "camera", "no frame and no trigger for 700 ms", "FAIL, missed frame", _MISSED, 1.2, _order("stall 700")),
    Fault("trigger not heard", "camera", "by the camera, once", "FAIL, missed frame", _MISSED, 1.0, _order("deaf 1")),
    Fault("light off", "camera", "no light at all", "FAIL for a good part", rejected, 1.5, _for_good("light 0", "light 100")),
    Fault("light weak", "camera", "a sixteenth of the light", "FAIL for a good part", rejected, 1.5, _for_good("dark always", "dark 0")),
    Fault(
        "over-exposed", "camera", "sixteen times the light", "FAIL for a good part", rejected, 1.5, _for_good("bright always", "bright 0")
    ),
    Fault("camera unplugged", "camera", "and plugged in again", "Error 1", _LOST, 3.0, _comes_back()),
    Fault("camera power-cycled", "camera", "away for 50 ms, then to be opened anew", "Error 1", _LOST, 3.0, _power_cycle),
    Fault(
        "access denied on return",
        "camera",
        "unplugged; three times denied when it is back",
        "Error 1",
        _LOST,
        3.0,
        _comes_back("error open 3"),
    ),
    Fault("no serial number on return", "camera", "unplugged; serial None before opening", "Error 1", _LOST, 3.0, _comes_back("noserial")),
    Fault(
        "NULL on revoke",
        "camera",
        "unplugged; the producer gives buffers back as NULL",
        "Error 1",
        _LOST,
        3.0,
        _comes_back("nullrevoke always"),
    ),
    Fault(
        "producer dies on return", "camera", "unplugged; segmentation fault when opened", "Error 1", _LOST, 3.0, _comes_back("crash open")
    ),
    Fault("opening hangs on return", "camera", "unplugged; opening takes 3 s", "Error 1", _LOST, 3.0, _comes_back("hang open 3000")),
    Fault(
        "write error",
        "camera",
        "at a changeover a feature cannot be written",
        "refused (21) or Error 1",
        any_of(refused(21), error(1)),
        12.0,
        _at_changeover("error write 1"),
    ),
    Fault(
        "start error",
        "camera",
        "at a changeover the camera does not start",
        "refused (21) or Error 1",
        any_of(refused(21), error(1)),
        12.0,
        _at_changeover("error start 1"),
    ),
    Fault(
        "stop blocks",
        "camera",
        "at a changeover the camera's stop takes 3 s",
        "done, or refused (21)",
        any_of(done, refused(21), error(1)),
        12.0,
        _at_changeover("hang stop 3000"),
    ),
    Fault(
        "stop fails",
        "camera",
        "at a changeover the camera's stop is an error",
        "done, or refused (21)",
        any_of(done, refused(21), error(1)),
        12.0,
        _at_changeover("error stop 1"),
    ),
    Fault(
        "buffers not taken back",
        "camera",
        "queueing fails, four times",
        "FAIL, Error 1, or the line goes on",
        any_of(_NOT_WHOLE, error(1), goes_on),
        5.0,
        _order("error queue 4"),
    ),
    Fault("fetching fails", "camera", "once", "FAIL, missed frame, or Error 1", any_of(_MISSED, error(1)), 3.0, _order("error fetch 1")),
    Fault("producer dies in a call", "camera", "segmentation fault in fetch", "Error 1", _LOST, 3.0, _order("crash fetch")),
    Fault("producer dies in queueing", "camera", "segmentation fault in queue", "Error 1", _LOST, 3.0, _order("crash queue")),
    Fault(
        "producer hangs in a call",
        "camera",
        "fetch never returns",
        "FAIL, missed frame, then Error 1",
        any_of(_MISSED, error(1)),
        3.0,
        _order("hang fetch"),
    ),
    Fault("camera process killed", "camera", "SIGKILL", "Error 1", _LOST, 3.0, _killed),
    Fault(
        "camera process stopped",
        "camera",
        "SIGSTOP for up to 2 s",
        "FAIL, missed frame, or Error 1",
        any_of(_MISSED, error(1)),
        3.0,
        _stopped,
    ),
]
_LOSE_PULSES = ("sensor stands still", "trigger not heard", "start error", "stop blocks", "stop fails", "camera process stopped")
"""What the camera never saw shifts the numbers where nobody counts, as PLC.md says of it (rule 10): no station could tell."""


def _links(name: str) -> tuple[str, ...]:
    """Also where a sensor fires the camera, but for a write error: nothing is written there, neither a trigger nor at this changeover."""
    if name == "write error":
        return PLC_COUNTS
    return tuple(link for link in LINKS if link != FREE or name not in _LOSE_PULSES)


FAULTS = [replace(fault, links=_links(fault.name)) for fault in _FAULTS]
