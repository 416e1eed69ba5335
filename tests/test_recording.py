"""A recording gives back what was put in, bit by bit, as far as it was written when the process died."""

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer

from drivers.camera import Camera, CameraError, CameraState, Frame, Pixels
from station.inspection import Defect, Inspection, Reason, Result, Verdict
from station.recording import RecordedCamera, Recorder, RecordingError, export, header, locate, read, recover, summary

HASH = "5e" * 32
HEADER = {"station": "left", "version": "1", "recipes": {"bulb": {"number": 3, "hash": HASH}}}
EPOCH_NS = 1_795_000_000_000_000_000
SEEN = Inspection(
    frame_id=7,
    captured_ns=1_000,
    recipe_hash=HASH,
    scores={"good": 0.1, "scratches": 0.9},
    class_name="scratches",
    class_index=1,
    probability=0.9,
    defects=(Defect("scratches", (10, 20, 30, 40), 800, 250), Defect("scratches", (1, 2, 3, 4), 12, 200)),
    heat_map=np.zeros((2, 2), np.uint8),
)
PART = Result(
    job_id=1,
    sequence=1,
    part_id="A-0001",
    verdict=Verdict.FAIL,
    reason=Reason.DEFECT,
    asked_recipe=3,
    recipe_number=3,
    recipe_hash=HASH,
    inspection=SEEN,
    triggered_ns=1_000,
    judged_ns=21_001_000,
    is_simulated=True,
    detail="seen by a test",
)
MISSED = replace(PART, inspection=None, reason=Reason.MISSED_FRAME)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.mcap"


def noise(*shape: int, dtype: type = np.uint8, most: int = 255, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, most, shape, dtype, endpoint=True)


def frame(frame_id: int = 1, pixels: Pixels | None = None, pixel_format: str = "Mono8") -> Frame:
    return Frame(noise(6, 8, seed=frame_id) if pixels is None else pixels, pixel_format, frame_id, missed=2, captured_ns=frame_id * 1000)


def record(path: Path, *parts: tuple[Result, Frame | None]) -> None:
    recorder = Recorder(path, HEADER, EPOCH_NS)
    for result, seen in parts:
        recorder.write(result, seen)
    recorder.close()


def record_numbered(path: Path, count: int) -> None:
    record(path, *((replace(PART, sequence=number, judged_ns=number * 10**9), frame(number)) for number in range(1, count + 1)))


def same(one: Frame | None, other: Frame) -> bool:
    assert one is not None
    fields = ("pixel_format", "frame_id", "missed", "captured_ns")
    assert one.pixels.dtype == other.pixels.dtype
    return np.array_equal(one.pixels, other.pixels) and all(getattr(one, name) == getattr(other, name) for name in fields)


def test_a_part_comes_back_as_it_was_answered(path: Path) -> None:
    record(path, (PART, frame()))
    (part,) = read(path)
    told = ("job_id", "sequence", "part_id", "asked_recipe", "recipe_number", "recipe_hash", "triggered_ns", "judged_ns", "is_simulated")
    assert all(getattr(part, name) == getattr(PART, name) for name in (*told, "detail"))
    assert (part.verdict, part.reason) == ("FAIL", 2)
    seen = ("class_index", "class_name", "probability", "scores", "defects")
    assert all(getattr(part, name) == getattr(SEEN, name) for name in seen)
    assert not part.dropped
    assert same(part.frame, frame())


def test_a_part_without_frame_has_none(path: Path) -> None:
    record(path, (PART, frame()), (MISSED, None), (PART, frame(2)))
    first, missed, last = read(path)
    assert same(first.frame, frame())
    assert (missed.frame, missed.class_name, missed.class_index, missed.probability) == (None, None, None, None)
    assert (missed.scores, missed.defects) == ({}, ())
    assert same(last.frame, frame(2))


def test_a_dropped_picture_is_told_from_a_missed_one(path: Path) -> None:
    recorder = Recorder(path, HEADER)
    recorder.write(PART, None, dropped=True)
    recorder.write(MISSED, None)
    recorder.close()
    assert [(part.dropped, part.frame) for part in read(path)] == [(True, None), (False, None)]


@pytest.mark.parametrize(
    ("pixels", "pixel_format"),
    [
        (noise(31, 47), "Mono8"),
        (noise(31, 47), "BayerGB8"),
        (noise(16, 20, dtype=np.uint16, most=4095), "BayerRG12"),
        (noise(16, 20, dtype=np.uint16, most=65535), "Mono16"),
        (noise(9, 7, 3), "RGB8"),
        (noise(9, 7, 3), "BGR8"),
        (noise(1, 1), "BayerBG8"),
        (np.tile(np.array([0, 255], np.uint8), (8, 8)), "Mono8"),
        (noise(20, 30)[::2, ::3], "Mono8"),
    ],
    ids=["mono", "bayer", "bayer12", "mono16", "rgb", "bgr", "one pixel", "wrap-around", "a view"],
)
def test_every_pixel_is_the_same_and_cannot_be_changed(path: Path, pixels: Pixels, pixel_format: str) -> None:
    recorded = frame(pixels=pixels, pixel_format=pixel_format)
    record(path, (PART, recorded))
    (part,) = read(path)
    assert same(part.frame, recorded)
    assert part.frame is not None
    assert not part.frame.pixels.flags.writeable


def test_recording_leaves_the_frame_as_it_is(path: Path) -> None:
    pixels = noise(6, 8)
    before = pixels.copy()
    record(path, (PART, frame(pixels=pixels, pixel_format="BayerRG8")))
    assert np.array_equal(pixels, before)


def test_a_bayer_gradient_takes_less_room_than_its_pixels(path: Path) -> None:
    ramp = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint8)
    mosaic = np.where(np.arange(256) % 2, ramp, ramp // 2 + 90).astype(np.uint8)
    record(path, (PART, frame(pixels=mosaic, pixel_format="BayerRG8")))
    assert path.stat().st_size < mosaic.nbytes / 10


def test_the_coding_follows_the_nearest_pixel_of_the_same_colour(tmp_path: Path) -> None:
    walk = np.cumsum(np.random.default_rng(0).integers(-2, 3, (64, 400)), axis=1).astype(np.uint8)
    mosaic = np.stack([walk, walk[::-1]], axis=2).reshape(64, 800)
    sizes = []
    for pixels, pixel_format in ((walk, "Mono8"), (walk, "BayerRG8"), (mosaic, "BayerRG8"), (mosaic, "Mono8")):
        recording = tmp_path / f"{len(sizes)}.mcap"
        record(recording, (PART, frame(pixels=pixels, pixel_format=pixel_format)))
        sizes.append(recording.stat().st_size)
    assert sizes[0] < sizes[1]
    assert sizes[2] < sizes[3]


def test_numpy_numbers_are_recorded_as_numbers(path: Path) -> None:
    seen = replace(SEEN, probability=np.float32(0.5), class_index=np.int64(1), scores={"good": np.float32(0.5)})
    record(path, (replace(PART, inspection=seen), None))
    (part,) = read(path)
    assert (part.probability, part.class_index, part.scores) == (0.5, 1, {"good": 0.5})


def test_the_header_comes_back(path: Path) -> None:
    record(path)
    assert header(path) == HEADER
    assert list(read(path)) == []


def test_a_recording_is_an_mcap_file_like_any_other(path: Path) -> None:
    record_numbered(path, 3)
    with path.open("rb") as file:
        reader = make_reader(file)
        messages = [(channel.topic, message.sequence, message.log_time) for _, channel, message in reader.iter_messages()]
    times_ns = [EPOCH_NS + number * 10**9 for number in (1, 2, 3)]
    assert messages == [(topic, number, time_ns) for number, time_ns in enumerate(times_ns, start=1) for topic in ("frame", "part")]


def test_a_summary_tells_what_is_in_a_recording(path: Path) -> None:
    recorder = Recorder(path, HEADER, EPOCH_NS)
    recorder.write(replace(PART, judged_ns=1_000_000_000), frame())
    recorder.write(replace(MISSED, job_id=2, recipe_number=0, recipe_hash=""), None)
    recorder.write(replace(PART, judged_ns=61_500_000_000), None, dropped=True)
    recorder.close()
    assert summary(path) == {
        "recording": "recording.mcap",
        "parts": 3,
        "pass": 0,
        "fail": 3,
        "frames": 1,
        "dropped": 1,
        "jobs": [1, 2],
        "recipes": [{"number": 3, "hash": HASH, "parts": 2}, {"number": 0, "hash": "", "parts": 1}],
        "first": "2026-11-18T11:06:41.000+00:00",
        "last": "2026-11-18T11:07:41.500+00:00",
        "size_bytes": path.stat().st_size,
        "complete": True,
        "header": HEADER,
    }
    json.dumps(summary(path))


def test_without_a_wall_clock_a_summary_has_no_times(path: Path) -> None:
    recorder = Recorder(path, HEADER)
    recorder.write(PART, None)
    recorder.close()
    assert (summary(path)["first"], summary(path)["last"]) == (None, None)


def test_a_recording_in_progress_is_readable_and_not_complete(path: Path) -> None:
    recorder = Recorder(path, HEADER, EPOCH_NS)
    for number in (1, 2):
        recorder.write(replace(PART, sequence=number), frame(number))
        assert [part.sequence for part in read(path)] == list(range(1, number + 1))
        assert recorder.size_bytes == path.stat().st_size
    assert not summary(path)["complete"]
    recorder.close()
    recorder.close()
    assert summary(path)["complete"]


def test_wherever_a_file_is_cut_every_part_before_the_cut_is_readable(path: Path, tmp_path: Path) -> None:
    recorder = Recorder(path, HEADER, EPOCH_NS)
    begun, ends = path.stat().st_size, []
    for number in (1, 2, 3):
        recorder.write(replace(PART, sequence=number), frame(number))
        ends.append(path.stat().st_size)
    recorder.close()
    whole, cut = path.read_bytes(), tmp_path / "cut.mcap"
    for length in range(begun, len(whole), 7):
        cut.write_bytes(whole[:length])
        parts = list(read(cut))
        assert len(parts) == sum(end <= length for end in ends)
        assert all(same(part.frame, frame(part.sequence)) for part in parts)
        assert not summary(cut)["complete"]


def test_a_file_cut_within_its_header_is_no_recording(path: Path) -> None:
    Recorder(path, HEADER).close()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RecordingError, match="cut before its header ended"):
        read(path)


RECORDING = """
import sys
from dataclasses import replace
from pathlib import Path
from station.recording import Recorder
from test_recording import HEADER, PART, frame, noise
recorder = Recorder(Path(sys.argv[1]), HEADER)
for number in range(1, 60000):
    recorder.write(replace(PART, sequence=number), frame(number, noise(400, 500, seed=number)))
    print(number, flush=True)
"""


def test_a_killed_daemon_loses_at_most_the_part_being_written(path: Path) -> None:
    environment = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parent.parent}"}
    with subprocess.Popen([sys.executable, "-c", RECORDING, path], stdout=subprocess.PIPE, text=True, env=environment) as daemon:
        assert daemon.stdout is not None
        for _ in range(20):
            printed = int(daemon.stdout.readline())
        daemon.kill()
        printed = max([printed, *(int(line) for line in daemon.stdout if line.endswith("\n"))])
    parts = 0
    for parts, part in enumerate(read(path), start=1):
        assert part.sequence == parts
        assert same(part.frame, frame(parts, noise(400, 500, seed=parts)))
    assert parts in (printed, printed + 1)


def test_a_cut_recording_is_made_whole_bit_by_bit(path: Path, tmp_path: Path) -> None:
    record_numbered(path, 4)
    path.write_bytes(path.read_bytes()[:-900])
    kept = len(list(read(path)))
    out = tmp_path / "whole.mcap"
    assert 0 < recover(path, out) == kept < 4
    assert summary(out) == summary(path) | {"recording": "whole.mcap", "size_bytes": out.stat().st_size, "complete": True}
    assert all(same(part.frame, frame(part.sequence)) for part in read(out))
    with pytest.raises(RecordingError, match="is there already"):
        recover(path, out)


def test_a_recording_is_never_written_over(path: Path) -> None:
    record_numbered(path, 1)
    with pytest.raises(RecordingError, match="is there already"):
        Recorder(path, HEADER)
    assert len(list(read(path))) == 1


def test_changed_pixels_are_refused_and_left_out_by_recover(path: Path, tmp_path: Path) -> None:
    rough = noise(30, 40, 3)
    record(path, (PART, frame()), (replace(PART, sequence=2), frame(2, rough, "RGB8")), (replace(PART, sequence=3), frame(3)))
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(rough.tobytes()[100:120])] ^= 1  # zstd stores noise as it is
    path.write_bytes(damaged)
    parts = read(path)
    assert next(parts).sequence == 1
    with pytest.raises(RecordingError, match="part 2 of the file is damaged"):
        next(parts)
    assert recover(path, tmp_path / "rest.mcap") == 2
    assert [part.sequence for part in read(tmp_path / "rest.mcap")] == [1, 3]


def test_a_damaged_part_is_named(path: Path) -> None:
    record_numbered(path, 2)
    path.write_bytes(path.read_bytes().replace(b'{"job_id": 1, "sequence": 2', b'{"job_id": 1; "sequence": 2'))
    with pytest.raises(RecordingError, match="part 2 of the file is damaged"):
        list(read(path))
    with pytest.raises(RecordingError, match="part 2 of the file is damaged"):
        summary(path)


def test_a_part_whose_frame_was_taken_out_is_damaged(path: Path, tmp_path: Path) -> None:
    record_numbered(path, 2)
    alone = tmp_path / "alone.mcap"
    with path.open("rb") as source, alone.open("wb") as target:
        writer = Writer(target, use_chunking=False)
        writer.start("station")
        (metadata,) = make_reader(source).iter_metadata()
        source.seek(0)
        frame_one, part_one, _, part_two = (message for _, _, message in make_reader(source).iter_messages())
        writer.add_metadata(metadata.name, metadata.metadata)
        channels = [writer.register_channel(topic, "", 0) for topic in ("frame", "part")]
        for message, channel in zip((frame_one, part_one, part_two), (channels[0], channels[1], channels[1]), strict=True):
            writer.add_message(channel, 1, message.data, 1, message.sequence)
        writer.finish()
    parts = read(alone)
    assert next(parts).sequence == 1
    with pytest.raises(RecordingError, match="part 2 of the file is damaged: its frame is not there"):
        next(parts)


def test_what_is_no_recording_is_refused(path: Path, tmp_path: Path) -> None:
    for ask in (read, header, summary, lambda path: recover(path, tmp_path / "out"), lambda path: export(path, tmp_path / "pictures")):
        path.unlink(missing_ok=True)
        with pytest.raises(RecordingError, match="No such file"):
            ask(path)
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(RecordingError, match="no recording"):
            ask(path)
        path.write_bytes(b"")
        with pytest.raises(RecordingError, match="no recording"):
            ask(path)


def test_an_mcap_file_of_someone_else_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("other")
        writer.finish()
    with pytest.raises(RecordingError, match="no recording of a station"):
        read(path)


def test_a_newer_format_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        writer = Writer(file, use_chunking=False)
        writer.start("station")
        writer.add_metadata("station.recording", {"version": "2", "epoch_ns": "0", "header": "{}"})
        writer.finish()
    with pytest.raises(RecordingError, match=r"format 2.*newer station"):
        read(path)


def test_a_file_that_another_tool_put_in_chunks_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("station")
        writer.add_metadata("station.recording", {"version": "1", "epoch_ns": "0", "header": "{}"})
        writer.add_message(writer.register_channel("part", "json", 0), 1, b"{}", 1)
        writer.finish()
    with pytest.raises(RecordingError, match="rewritten in chunks"):
        list(read(path))


def test_a_header_that_is_no_json_leaves_no_file(path: Path) -> None:
    with pytest.raises(RecordingError, match="header"):
        Recorder(path, {"clock": object()})
    assert not path.exists()


@contextmanager
def full_disk(at_bytes: int) -> Iterator[None]:
    """No file of this process can grow past `at_bytes`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_ends_the_recording_and_what_was_recorded_stays(path: Path) -> None:
    recorder = Recorder(path, HEADER)
    recorder.write(PART, frame())
    with full_disk(at_bytes=20_000), pytest.raises(RecordingError, match="cannot be written"):
        recorder.write(PART, frame(2, noise(200, 200)))
    with pytest.raises(RecordingError, match="is closed"):
        recorder.write(PART, frame(3))
    recorder.close()
    assert len(list(read(path))) == 1


def test_a_disk_without_room_for_the_header_leaves_no_file(path: Path) -> None:
    with full_disk(at_bytes=20), pytest.raises(RecordingError, match="header"):
        Recorder(path, HEADER)
    assert not path.exists()


def test_an_export_has_every_pixel_and_every_part(path: Path, tmp_path: Path) -> None:
    grey, rgb, deep = noise(6, 8), noise(6, 8, 3), noise(6, 8, dtype=np.uint16, most=4095)
    frames = [frame(1, grey, "BayerRG8"), frame(2, rgb, "RGB8"), frame(3, rgb, "BGR8"), frame(4, deep, "Mono12")]
    record(path, *((replace(PART, sequence=seen.frame_id), seen) for seen in frames), (replace(MISSED, sequence=5), None))
    out = tmp_path / "pictures"
    assert export(path, out) == 5
    lines = [json.loads(line) for line in (out / "parts.jsonl").read_text().splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[4]["frame"] is None
    assert lines[0]["defects"][0] == {"class": "scratches", "box": [10, 20, 30, 40], "area_px": 800, "peak": 250}
    assert lines[0]["frame"] == {
        "picture": "000001-job1-part1-FAIL.png",
        "pixel_format": "BayerRG8",
        "frame_id": 1,
        "missed": 2,
        "captured_ns": 1000,
    }
    pictures = [cv2.imread(str(out / line["frame"]["picture"]), cv2.IMREAD_UNCHANGED) for line in lines[:4]]
    for picture, expected in zip(pictures, (grey, rgb[..., ::-1], rgb, deep), strict=True):
        assert np.array_equal(picture, expected)
    assert len(list(out.iterdir())) == 5
    with pytest.raises(RecordingError, match="is there already"):
        export(path, out)


def test_a_recording_is_found_by_path_and_by_name(path: Path, tmp_path: Path) -> None:
    record(path)
    assert locate(tmp_path / "elsewhere", str(path)) == path
    assert locate(tmp_path, "recording.mcap") == locate(tmp_path, "recording") == path
    with pytest.raises(RecordingError, match="other"):
        locate(tmp_path, "other")


# ---- the recorded camera


SOFTWARE = {"TriggerMode": "On", "TriggerSource": "Software"}


def started(features: dict[str, bool | int | float | str], *frames: Frame | None) -> RecordedCamera:
    camera = RecordedCamera(frames)
    camera.start(features)
    return camera


def test_a_recorded_camera_is_a_camera_and_simulated() -> None:
    camera: Camera = RecordedCamera([])
    assert camera.simulated
    assert camera.status().state is CameraState.ABSENT


def test_each_trigger_takes_the_next_frame() -> None:
    one, two = frame(1), frame(2)
    camera = started({"TriggerMode": "On"}, one, two)
    for expected in (one, two):
        assert camera.fetch(0.1) is None
        camera.trigger()
        assert camera.fetch(0.1) is expected
    camera.trigger()
    assert camera.fetch(0.1) is None


def test_a_frame_from_before_a_trigger_is_never_handed_over_after_it() -> None:
    camera = started(SOFTWARE, frame(1), frame(2))
    camera.trigger()
    camera.trigger()
    seen = camera.fetch(0.1)
    assert seen is not None
    assert seen.frame_id == 2
    assert camera.fetch(0.1) is None


def test_a_missed_frame_is_none_at_once_and_the_next_follows() -> None:
    two = frame(2)
    camera = started(SOFTWARE, None, two)
    camera.trigger()
    assert camera.fetch(3600) is None
    camera.trigger()
    assert camera.fetch(3600) is two


@pytest.mark.parametrize("features", [{}, {"TriggerMode": "Off"}, {"TriggerMode": "On", "TriggerSource": "Line1"}])
def test_without_software_trigger_frames_come_by_themselves(features: dict[str, bool | int | float | str]) -> None:
    one, two = frame(1), frame(2)
    camera = started(features, one, None, two)
    assert [camera.fetch(0.1) for _ in range(5)] == [one, None, two, None, None]
    with pytest.raises(CameraError, match="not Software"):
        camera.trigger()


def test_only_a_streaming_camera_triggers_and_fetches() -> None:
    camera = RecordedCamera([frame(1)])
    with pytest.raises(CameraError, match="does not stream"):
        camera.trigger()
    with pytest.raises(CameraError, match="does not stream"):
        camera.fetch(0.1)
    camera.start(SOFTWARE)
    camera.stop()
    camera.stop()
    with pytest.raises(CameraError, match="does not stream"):
        camera.fetch(0.1)


def test_a_camera_that_streams_with_the_same_features_is_left_alone() -> None:
    one = frame(1)
    camera = started(SOFTWARE, one)
    camera.trigger()
    camera.start(dict(SOFTWARE))
    assert camera.fetch(0.1) is one


def test_other_features_begin_anew_with_the_next_frame() -> None:
    camera = started(SOFTWARE, frame(1), frame(2))
    camera.trigger()
    camera.start(SOFTWARE | {"ExposureTime": 100.0})
    assert camera.fetch(0.1) is None
    assert camera.status().features == SOFTWARE | {"ExposureTime": 100.0}
    camera.trigger()
    seen = camera.fetch(0.1)
    assert seen is not None
    assert seen.frame_id == 2


def test_status_counts_what_was_delivered_and_missed() -> None:
    camera = started({}, frame(1), None, frame(2))
    for _ in range(4):
        camera.fetch(0.1)
    camera.stop()
    camera.start({})
    status = camera.status()
    assert (status.state, status.delivered, status.missed) == (CameraState.STREAMING, 2, 4)


def test_a_closed_camera_raises() -> None:
    camera = started({}, frame(1))
    camera.close()
    camera.close()
    for call in (lambda: camera.start({}), camera.trigger, lambda: camera.fetch(0.1)):
        with pytest.raises(CameraError, match="closed"):
            call()
    assert camera.status().state is CameraState.ABSENT


def test_a_damaged_recording_is_a_lost_camera(path: Path) -> None:
    record_numbered(path, 2)
    path.write_bytes(path.read_bytes().replace(b'"sequence": 2', b'"sequence"; 2'))
    camera = RecordedCamera(part.frame for part in read(path))
    camera.start({})
    assert camera.fetch(0.1) is not None
    with pytest.raises(CameraError, match="part 2 of the file is damaged"):
        camera.fetch(0.1)
    assert camera.status().state is CameraState.LOST
    assert "damaged" in camera.status().detail


def test_a_recording_plays_back_through_the_camera(path: Path) -> None:
    record_numbered(path, 3)
    camera = RecordedCamera(part.frame for part in read(path))
    camera.start(SOFTWARE)
    for number in (1, 2, 3):
        camera.trigger()
        assert same(camera.fetch(0.1), frame(number))
