"""The simulated cameras alone: a list of them, and a stream of one with what is wrong with its frames."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from drivers.simulated.build import BuildError, build
from drivers.simulated.consumer import Device, GenTLError, Producer, SeenFrame, Stream
from drivers.simulated.scene import SENSORS, simulated_directory, tell

TIMEOUT_MS = 1000


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What is streamed: attempts to fetch a frame, features as texts, and orders, each given before the frame of its number (from 0)."""

    serial: str
    frames: int
    features: tuple[tuple[str, str], ...] = ()
    trigger: Literal["software", "line0"] | None = None
    orders: tuple[tuple[int, str], ...] = ()


def list_cameras() -> list[dict[str, str | None]]:
    """What the producer tells of each camera before it is opened.

    Raises:
        ValueError: the producer cannot be built or refuses.
    """
    with _producer() as producer:
        return producer.devices()


def stream(spec: StreamSpec, say: Callable[[str], None]) -> dict[str, int]:
    """Fetches frames and says a line of each; returns how many came and how often each remark was made.

    Raises:
        ValueError: there is no such camera or feature, or the producer refuses.
    """
    features = dict(spec.features)
    if spec.trigger:
        features |= {"TriggerSource": spec.trigger.capitalize(), "TriggerMode": "On"}
    with _producer() as producer, producer.open(_id_of(spec.serial, producer.devices())) as device:
        serial = device.read_text("DeviceSerialNumber")
        for name, value in features.items():
            device.write(name, value)
        with device.stream() as frames:
            return _fetch_all(spec, serial, device, frames, say)


@contextmanager
def _producer() -> Iterator[Producer]:
    try:
        producer = Producer(build())
        try:
            yield producer
        finally:
            producer.close()
    except (BuildError, GenTLError) as error:
        raise ValueError(str(error)) from error


def _id_of(serial: str, devices: list[dict[str, str | None]]) -> str:
    """By serial number or id; else the one that tells no serial number before it is open, if there is just one."""
    found = [device for device in devices if serial in (device["serial"], device["id"])]
    found = found or [device for device in devices if device["serial"] is None and serial in SENSORS]
    if len(found) != 1:
        raise ValueError(
            f"no camera {serial}; there are {', '.join(str(device['serial'] or device['id']) for device in devices) or 'none'}"
        )
    return str(found[0]["id"])


def _fetch_all(spec: StreamSpec, serial: str, device: Device, frames: Stream, say: Callable[[str], None]) -> dict[str, int]:
    directory = simulated_directory()
    counts: Counter[str] = Counter(frames=0)
    before: SeenFrame | None = None
    for number in range(spec.frames):
        for order in (order for at, order in spec.orders if at == number):
            tell(directory, serial, order)
            say(f"told: {order}")
        if spec.trigger == "software":
            device.execute("TriggerSoftware")
        elif spec.trigger:
            tell(directory, serial, "line0")
        frame = frames.fetch(TIMEOUT_MS)
        remarks = remarks_on(frame, before)
        counts.update(remarks)
        say(_line(frame) + "".join(f"; {remark}" for remark in remarks))
        if frame is not None:
            counts["frames"] += 1
            before = frame
    return dict(counts)


def _line(frame: SeenFrame | None) -> str:
    if frame is None:
        return f"{TIMEOUT_MS} ms"
    return f"frame {frame.frame_id} at {frame.timestamp}: {frame.width} x {frame.height}, {frame.filled} bytes"


def remarks_on(frame: SeenFrame | None, before: SeenFrame | None) -> list[str]:
    """What is wrong with a frame, by itself and after the one before it; numbers missing are a remark each."""
    if frame is None:
        return ["nothing came"]
    wrong = {
        "incomplete": bool(frame.incomplete),
        "larger than its buffer": bool(frame.larger),
        "without a height": frame.height == 0,
        "without a timestamp": frame.timestamp is None,
        "too few bytes": not frame.incomplete and (frame.filled or 0) * 8 < (frame.width or 0) * (frame.height or 0) * _bits(frame),
    }
    remarks = [remark for remark, is_so in wrong.items() if is_so]
    if before is None or frame.frame_id is None or before.frame_id is None:
        return remarks
    step = frame.frame_id - before.frame_id
    if (before.width, before.height) != (frame.width, frame.height):
        remarks.append("another size")
    if frame.crc == before.crc and frame.filled == before.filled:
        remarks.append("the same bytes")
    if step != 1:
        remarks.append("the same number" if step == 0 else "numbers missing" if step > 0 else "counted backwards")
    return remarks


def _bits(frame: SeenFrame) -> int:
    """Of a pixel, from its PFNC value."""
    return (frame.format or 0) >> 16 & 0xFF
