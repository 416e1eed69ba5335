"""The recording format: every part as it was answered and every frame bit by bit, readable up to the last whole part after any crash.

The file is MCAP (`mcap_file`). Its metadata holds the format version, the caller's header as JSON and the wall-clock time of monotonic
zero; message times are wall clock, ns. A part's JSON has the fields of `RecordedPart`, the frame's pixels excepted.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import zstandard
from mcap.records import Message

from drivers.camera import CameraError, CameraState, CameraStatus, Feature, Frame
from station.inspection import Defect, Result
from station.mcap_file import FRAME, PART, RecordingError, Tape, complete, decode, encode, opening, walk, writing

__all__ = ["RecordedCamera", "RecordedPart", "Recorder", "RecordingError", "export", "header", "locate", "read", "recover", "summary"]


@dataclass(frozen=True, slots=True)
class RecordedPart:
    """One part as it was answered, and its frame. Fields as in `inspection.Result`, times on the recording machine's monotonic clock.

    Attributes:
        verdict: the text that was said, "PASS" or "FAIL".
        reason: the number on the wire.
        class_index, class_name, probability: None when no frame was inspected.
        dropped: there was a frame, and the recorder was not given it.
        frame: the very frame, bit by bit; None when none came, or when it was `dropped`.
    """

    job_id: int
    sequence: int
    part_id: str
    verdict: str
    reason: int
    asked_recipe: int
    recipe_number: int
    recipe_hash: str
    class_index: int | None
    class_name: str | None
    probability: float | None
    scores: dict[str, float]
    defects: tuple[Defect, ...]
    triggered_ns: int
    judged_ns: int
    is_simulated: bool
    detail: str
    dropped: bool
    frame: Frame | None


class Recorder:
    """Writes one recording. A part that `write` returned from survives a kill of this process; a loss of power may take the newest."""

    def __init__(self, path: Path, header: Mapping[str, object], epoch_ns: int = 0) -> None:
        """Makes the file and writes the header.

        Args:
            header: what a reader must know beside the parts, such as the station's name and its recipes; JSON-able.
            epoch_ns: the wall-clock time at zero of the monotonic clock; 0 when it is not known.

        Raises:
            RecordingError: the file is there already or cannot be written; then nothing is left behind.
        """
        self._path = path
        self._epoch_ns = epoch_ns
        self._parts = 0
        with writing(path):
            self._file = path.open("xb")
        try:
            self._tape = Tape(self._file, {"epoch_ns": str(epoch_ns), "header": json.dumps(header)})
        except (OSError, TypeError, ValueError) as error:
            self._abandon()
            path.unlink()
            raise RecordingError(f"{path}: the header cannot be written: {error}") from error

    @property
    def size_bytes(self) -> int:
        """What was written so far."""
        return self._file.tell()

    def write(self, result: Result, frame: Frame | None, dropped: bool = False) -> None:
        """Records one part and its frame. `dropped`: there was a frame and it is not given.

        Raises:
            RecordingError: the disk is full or broken. The recording is closed then, and readable up to the part before.
        """
        if self._file.closed:
            raise RecordingError(f"{self._path}: is closed; begin another recording")
        description, payload = encode(frame) if frame else (None, None)
        part = _part(result) | {"dropped": dropped, FRAME: description}
        self._parts += 1
        try:
            with writing(self._path):
                self._tape.add(self._parts, self._epoch_ns + result.judged_ns, json.dumps(part, default=_plain).encode(), payload)
        except RecordingError:
            self._abandon()
            raise

    def close(self) -> None:
        """Makes the recording complete. Does nothing when it is closed.

        Raises:
            RecordingError: the end cannot be written; the parts are readable all the same.
        """
        if self._file.closed:
            return
        try:
            with writing(self._path):
                self._tape.finish()
        finally:
            self._abandon()

    def _abandon(self) -> None:
        with suppress(OSError):
            self._file.close()


def locate(directory: Path, which: str) -> Path:
    """The recording meant: a path to one, or the name of one in `directory`, with or without its ending.

    Raises:
        RecordingError: there is neither.
    """
    for path in (Path(which), directory / which, directory / f"{which}.mcap"):
        if path.is_file():
            return path
    raise RecordingError(f"{which}: no such recording, nor in {directory}; see `station recording list`")


def read(path: Path) -> Iterator[RecordedPart]:
    """The parts in the order they were answered, one at a time, up to the end or to where the file was cut.

    Every frame's pixels are read-only and checked against the SHA-256 that was recorded.

    Raises:
        RecordingError: at once when there is no recording, or a newer one; at a part, when it is damaged.
    """
    opening(path)
    return _read(path)


def header(path: Path) -> dict[str, Any]:
    """The header as it was given to `Recorder`.

    Raises:
        RecordingError: there is no recording, or one of a newer format.
    """
    return cast(dict[str, Any], json.loads(opening(path)["header"]))


def summary(path: Path) -> dict[str, Any]:
    """What is in a recording, JSON-able, without reading the pixels.

    Keys: recording, parts, pass, fail, frames, dropped, jobs, recipes (each number, hash, parts), first and last (ISO 8601, UTC; None
    when the recorder did not know the wall clock), size_bytes, complete (it was closed; otherwise `recover` makes it whole), header.

    Raises:
        RecordingError: there is no recording, or one of a newer format.
    """
    begun = opening(path)
    verdicts: Counter[str] = Counter()
    recipes: Counter[tuple[int, str]] = Counter()
    jobs: set[int] = set()
    frames = dropped = first_ns = last_ns = 0
    for topic, record in walk(path, pixels=False):
        if topic == PART:
            part = _parse(path, record)
            verdicts[part["verdict"]] += 1
            recipes[part["recipe_number"], part["recipe_hash"]] += 1
            jobs.add(part["job_id"])
            frames += part[FRAME] is not None
            dropped += part["dropped"]
            first_ns, last_ns = first_ns or record.log_time, record.log_time
    known = jobs and int(begun["epoch_ns"])
    return {
        "recording": path.name,
        "parts": verdicts.total(),
        "pass": verdicts["PASS"],
        "fail": verdicts.total() - verdicts["PASS"],
        "frames": frames,
        "dropped": dropped,
        "jobs": sorted(jobs),
        "recipes": [{"number": number, "hash": digest, "parts": parts} for (number, digest), parts in recipes.items()],
        "first": _iso(first_ns) if known else None,
        "last": _iso(last_ns) if known else None,
        "size_bytes": path.stat().st_size,
        "complete": complete(path),
        "header": json.loads(begun["header"]),
    }


def recover(path: Path, out: Path) -> int:
    """Copies every whole part of a cut or damaged recording into a complete one, bit by bit, and returns how many.

    Raises:
        RecordingError: there is no recording, or `out` is there already or cannot be written.
    """
    begun, parts = opening(path), 0
    with writing(out), out.open("xb") as file:
        try:
            tape = Tape(file, begun)
            for part, frame in _whole(path):
                tape.add(part.sequence, part.log_time, part.data, frame.data if frame else None)
                parts += 1
            tape.finish()
        except OSError:
            out.unlink()
            raise
    return parts


def export(path: Path, directory: Path) -> int:
    """Writes every frame as a PNG with its pixels unchanged (Bayer as the grey mosaic, 10 and 12 bits in 16) and `parts.jsonl`.

    Each line of `parts.jsonl` is a part with the name of its picture, null when it has none. Returns the number of parts.

    Raises:
        RecordingError: there is no recording, a part is damaged, or the folder holds an export already or cannot be written.
    """
    parts = read(path)
    count = 0
    with writing(directory / "parts.jsonl"):
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "parts.jsonl").open("x", encoding="utf-8") as lines:
            for count, part in enumerate(parts, start=1):
                name = f"{count:06d}-job{part.job_id}-part{part.sequence}-{part.verdict}.png" if part.frame else None
                if name and part.frame:
                    (directory / name).write_bytes(_png(part.frame))
                lines.write(json.dumps(_line(part, name)) + "\n")
    return count


class RecordedCamera:
    """A `Camera` that plays frames back with the ids, gaps and times they were recorded with; it keeps that camera's promises.

    With `TriggerMode: "On"` and `TriggerSource: Software` (or none named) each `trigger` takes the next item, and one that was not fetched
    is gone. Otherwise `fetch` takes the next by itself. An item that is None is an exposure whose frame never came. Nothing ever waits:
    `fetch` returns None at once when there is nothing, and from the end on. Features are taken as they are and read back the same.
    """

    simulated = True

    def __init__(self, frames: Iterable[Frame | None]) -> None:
        self._frames = iter(frames)
        self._features: dict[str, Feature] = {}
        self._state = CameraState.ABSENT
        self._detail = "not started"
        self._closed = False
        self._exposed: Frame | None = None
        self._delivered = self._missed = 0

    def start(self, features: Mapping[str, Feature]) -> None:
        """See `Camera.start`; goes on where it stopped."""
        if self._closed:
            raise CameraError("recorded camera: is closed; make a new one")
        if self._state is CameraState.STREAMING and list(features.items()) == list(self._features.items()):
            return
        self._features, self._exposed = dict(features), None
        self._state, self._detail = CameraState.STREAMING, ""

    def status(self) -> CameraStatus:
        """See `Camera.status`."""
        return CameraStatus(
            self._state, self._detail, model="recording", features=dict(self._features), delivered=self._delivered, missed=self._missed
        )

    def trigger(self) -> None:
        """See `Camera.trigger`."""
        self._require_streaming()
        if not self._software_triggered:
            raise CameraError('recorded camera: its trigger is not Software; set TriggerMode: "On" and TriggerSource: Software')
        self._exposed = self._next()

    def fetch(self, timeout_s: float) -> Frame | None:  # noqa: ARG002
        """See `Camera.fetch`."""
        self._require_streaming()
        frame, self._exposed = (self._exposed if self._software_triggered else self._next()), None
        if frame is not None:
            self._delivered += 1
            self._missed += frame.missed
        return frame

    def stop(self) -> None:
        """See `Camera.stop`."""
        self._exposed = None
        if self._state is CameraState.STREAMING:
            self._state, self._detail = CameraState.ABSENT, "stopped"

    def close(self) -> None:
        """See `Camera.close`."""
        self.stop()
        self._closed, self._frames = True, iter(())

    @property
    def _software_triggered(self) -> bool:
        return self._features.get("TriggerMode") == "On" and self._features.get("TriggerSource", "Software") == "Software"

    def _require_streaming(self) -> None:
        if self._state is not CameraState.STREAMING:
            raise CameraError(f"recorded camera: does not stream ({'closed' if self._closed else self._detail}); call start first")

    def _next(self) -> Frame | None:
        try:
            return next(self._frames, None)
        except RecordingError as error:
            self._state, self._detail = CameraState.LOST, str(error)
            raise CameraError(f"recorded camera: {error}") from error


def _read(path: Path) -> Iterator[RecordedPart]:
    frame = None
    for topic, record in walk(path):
        if topic == FRAME:
            frame = record
        elif topic == PART:
            yield _recorded(path, record, frame)


def _whole(path: Path) -> Iterator[tuple[Message, Message | None]]:
    """Every part that can be read and the message of its frame; what is damaged is left out."""
    frame = None
    with suppress(RecordingError):
        for topic, record in walk(path):
            if topic == FRAME:
                frame = record
            elif topic == PART:
                with suppress(RecordingError):
                    yield record, frame if _recorded(path, record, frame).frame else None


def _parse(path: Path, record: Message) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(record.data))
    except ValueError as error:
        raise RecordingError(f"{path}: part {record.sequence} of the file is damaged: {error}") from error


def _recorded(path: Path, record: Message, frame: Message | None) -> RecordedPart:
    fields = _parse(path, record)
    try:
        description = fields.pop(FRAME)
        if description is not None and (frame is None or frame.sequence != record.sequence):
            raise ValueError("its frame is not there")
        fields["defects"] = tuple(
            Defect(defect["class"], cast(Any, tuple(defect["box"])), defect["area_px"], defect["peak"]) for defect in fields["defects"]
        )
        return RecordedPart(**fields, frame=decode(description, frame.data) if description and frame else None)
    except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise RecordingError(f"{path}: part {record.sequence} of the file is damaged: {error}") from error


def _part(result: Result) -> dict[str, Any]:
    """The fields of `RecordedPart` but the frame's, JSON-able."""
    seen = result.inspection
    return {
        "job_id": result.job_id,
        "sequence": result.sequence,
        "part_id": result.part_id,
        "verdict": result.verdict.value,
        "reason": int(result.reason),
        "asked_recipe": result.asked_recipe,
        "recipe_number": result.recipe_number,
        "recipe_hash": result.recipe_hash,
        "class_index": seen.class_index if seen else None,
        "class_name": seen.class_name if seen else None,
        "probability": seen.probability if seen else None,
        "scores": seen.scores if seen else {},
        "defects": [_defect(defect) for defect in (seen.defects if seen else ())],
        "triggered_ns": result.triggered_ns,
        "judged_ns": result.judged_ns,
        "is_simulated": result.is_simulated,
        "detail": result.detail,
    }


def _defect(defect: Defect) -> dict[str, Any]:
    return {"class": defect.class_name, "box": defect.box, "area_px": defect.area_px, "peak": defect.peak}


def _plain(value: object) -> object:
    """NumPy's scalars as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON-able")


def _png(frame: Frame) -> bytes:
    pixels = frame.pixels[..., ::-1] if frame.pixel_format.startswith("RGB") else frame.pixels
    done, encoded = cv2.imencode(".png", pixels)
    if not done:
        raise RecordingError(f"frame {frame.frame_id} of format {frame.pixel_format} cannot be written as PNG")
    return encoded.tobytes()


def _line(part: RecordedPart, picture: str | None) -> dict[str, Any]:
    frame = part.frame
    described = frame and {
        "picture": picture,
        "pixel_format": frame.pixel_format,
        "frame_id": frame.frame_id,
        "missed": frame.missed,
        "captured_ns": frame.captured_ns,
    }
    return asdict(replace(part, frame=None, defects=())) | {"defects": [_defect(defect) for defect in part.defects], FRAME: described}


def _iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds")
