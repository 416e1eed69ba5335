"""Parts are recorded behind the answer; whatever happens to the disk, the line does not wait and does not stop."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drivers.camera import Frame
from station.inspection import Reason, Result, Verdict
from station.publisher import RETRY_NS, WAITING_PARTS, Publisher
from station.recording import RecordingError, read, summary

SECOND_NS = 1_000_000_000
NOON_NS = 1_795_003_200 * SECOND_NS
HEADER = {"station": "left"}
PART = Result(
    job_id=1,
    sequence=1,
    part_id="",
    verdict=Verdict.FAIL,
    reason=Reason.MISSED_FRAME,
    asked_recipe=3,
    recipe_number=3,
    recipe_hash="",
    inspection=None,
    triggered_ns=0,
    judged_ns=0,
    is_simulated=True,
)
FRAME = Frame(np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8), "RGB8", 1, 0, 1)
FRAME_BYTES = 10_000


class Clock:
    """Both clocks; stands until it is moved."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic(self) -> int:
        return self.now_ns

    def wall(self) -> int:
        return NOON_NS + self.now_ns


Make = Callable[..., Publisher]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data" / "recordings"


@pytest.fixture
def make(directory: Path, clock: Clock) -> Iterator[Make]:
    made: list[Publisher] = []

    def make_one(**changes: Any) -> Publisher:
        settings: dict[str, Any] = {"keep": "all", "pictures": 4, "file_bytes": 1 << 30, "max_bytes": 1 << 40, "free_bytes": 0}
        settings |= {"header": lambda: HEADER, "clock": clock.monotonic, "wall_clock": clock.wall}
        made.append(Publisher(directory, **settings | changes))
        return made[-1]

    yield make_one
    for publisher in made:
        publisher.close()


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < deadline, "not reached within 10 s"
        time.sleep(0.002)


def sequences(path: Path) -> list[int]:
    """What is in a recording that may only just begin."""
    try:
        return [part.sequence for part in read(path)]
    except RecordingError:
        return []


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_offered_is_recorded(make: Make, directory: Path) -> None:
    publisher = make()
    assert publisher.offer(PART, FRAME)
    assert publisher.offer(replace(PART, sequence=2), None)
    publisher.close()
    (path,) = directory.iterdir()
    first, second = read(path)
    assert first.frame is not None
    assert np.array_equal(first.frame.pixels, FRAME.pixels)
    assert (second.sequence, second.frame, second.dropped) == (2, None, False)
    assert summary(path)["complete"]
    assert (publisher.dropped, publisher.alarm) == (0, "")


def test_a_recording_is_named_by_its_beginning_and_its_job_and_knows_the_wall_clock(make: Make, directory: Path, clock: Clock) -> None:
    clock.now_ns = 5 * SECOND_NS
    publisher = make()
    publisher.offer(replace(PART, job_id=7, judged_ns=4 * SECOND_NS), None)
    publisher.close()
    (path,) = directory.iterdir()
    assert path.name == "20261118T120005Z-job7.mcap"
    told = summary(path)
    assert (told["first"], told["header"]) == ("2026-11-18T12:00:04.000+00:00", HEADER)


def test_each_job_has_its_own_recording(make: Make, directory: Path) -> None:
    publisher = make()
    for job_id, sequence in ((1, 1), (1, 2), (2, 1)):
        publisher.offer(replace(PART, job_id=job_id, sequence=sequence), None)
    publisher.close()
    assert names(directory) == ["20261118T120000Z-job1.mcap", "20261118T120000Z-job2.mcap"]
    assert [sequences(path) for path in sorted(directory.iterdir())] == [[1, 2], [1]]
    assert all(summary(path)["complete"] for path in directory.iterdir())


def test_a_long_recording_goes_on_in_a_new_file_with_a_name_of_its_own(make: Make, directory: Path) -> None:
    publisher = make(file_bytes=2 * FRAME_BYTES, pictures=5)
    for sequence in range(1, 6):
        publisher.offer(replace(PART, sequence=sequence), FRAME)
    publisher.close()
    assert names(directory) == [f"20261118T12000{second}Z-job1.mcap" for second in (0, 1, 2)]
    assert [sequences(path) for path in sorted(directory.iterdir())] == [[1, 2], [3, 4], [5]]


def test_only_failed_parts_are_kept_if_so_configured(make: Make, directory: Path) -> None:
    publisher = make(keep="failed")
    not_failed = replace(PART, sequence=1, verdict=None)  # type: ignore[arg-type]  # only the Gate says PASS
    assert publisher.offer(not_failed, FRAME)
    assert publisher.offer(replace(PART, sequence=2), FRAME)
    publisher.close()
    assert [sequences(path) for path in directory.iterdir()] == [[2]]
    assert publisher.dropped == 0


def test_nothing_is_kept_if_so_configured(make: Make, directory: Path) -> None:
    publisher = make(keep="none")
    assert publisher.offer(PART, FRAME)
    publisher.close()
    assert not directory.exists()
    assert publisher.dropped == 0


class HungDisk:
    """A header that is not there yet: the thread hangs where it would on a disk that does not answer."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = threading.Event()

    def __call__(self) -> dict[str, object]:
        self.asked.set()
        assert self.answers.wait(30)
        return {}


def test_a_full_queue_drops_the_picture_and_never_the_part(make: Make, directory: Path) -> None:
    disk = HungDisk()
    publisher = make(header=disk, pictures=2)
    taken = [publisher.offer(replace(PART, sequence=sequence), FRAME) for sequence in range(1, 6)]
    assert publisher.offer(replace(PART, sequence=6), None)
    disk.answers.set()
    publisher.close()
    assert taken == [True, True, False, False, False]
    assert publisher.dropped == 3
    (path,) = directory.iterdir()
    parts = [(part.sequence, part.frame is not None, part.dropped) for part in read(path)]
    assert parts == [(1, True, False), (2, True, False), (3, False, True), (4, False, True), (5, False, True), (6, False, False)]


def test_pictures_are_taken_again_when_the_queue_has_emptied(make: Make, directory: Path) -> None:
    disk = HungDisk()
    publisher = make(header=disk, pictures=1)
    assert publisher.offer(PART, FRAME)
    assert not publisher.offer(PART, FRAME)
    disk.answers.set()
    until(lambda: publisher.offer(replace(PART, sequence=9), FRAME))
    publisher.close()
    (path,) = directory.iterdir()
    assert [part.frame is not None for part in read(path)][-1]


def test_a_disk_that_is_gone_for_long_costs_no_endless_memory(make: Make) -> None:
    disk = HungDisk()
    publisher = make(header=disk)
    publisher.offer(PART, None)
    assert disk.asked.wait(10)
    taken = [publisher.offer(PART, None) for _ in range(WAITING_PARTS + 3)]
    disk.answers.set()
    assert taken.count(False) == 3
    assert publisher.dropped == 3


def test_offering_takes_less_than_a_millisecond_while_the_disk_hangs(make: Make) -> None:
    disk = HungDisk()
    publisher = make(header=disk, pictures=2)
    times_s = []
    for _ in range(200):
        begun = time.perf_counter()
        publisher.offer(PART, FRAME)
        times_s.append(time.perf_counter() - begun)
    disk.answers.set()
    assert sorted(times_s)[len(times_s) // 2] < 1e-3


def test_closing_a_hung_disk_ends_in_time_and_is_an_alarm(make: Make) -> None:
    disk = HungDisk()
    publisher = make(header=disk)
    publisher.offer(PART, FRAME)
    publisher.offer(PART, FRAME)
    assert disk.asked.wait(10)
    begun = time.monotonic()
    publisher.close(timeout_s=0.05)
    assert time.monotonic() - begun < 5
    assert "still waiting" in publisher.alarm
    assert not publisher.offer(PART, None)
    disk.answers.set()


def test_the_oldest_recordings_make_room_for_the_new(make: Make, directory: Path, clock: Clock) -> None:
    publisher = make(file_bytes=2 * FRAME_BYTES, max_bytes=5 * FRAME_BYTES)
    for job_id in range(1, 6):
        clock.now_ns = job_id * SECOND_NS
        publisher.offer(replace(PART, job_id=job_id), FRAME)
        path = directory / f"20261118T12000{job_id}Z-job{job_id}.mcap"
        until(lambda path=path: sequences(path) == [1])
    publisher.close()
    assert names(directory) == [f"20261118T12000{job_id}Z-job{job_id}.mcap" for job_id in (3, 4, 5)]
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 5 * FRAME_BYTES
    assert "20261118T120005Z-job5.mcap" in names(directory)


def test_a_recording_never_outgrows_what_all_may_take(make: Make, directory: Path) -> None:
    publisher = make(max_bytes=2 * FRAME_BYTES, pictures=6)
    for sequence in range(1, 7):
        publisher.offer(replace(PART, sequence=sequence), FRAME)
    publisher.close()
    (path,) = directory.iterdir()
    assert sequences(path) == [5, 6]


def test_files_that_are_not_named_as_recordings_are_never_deleted(make: Make, directory: Path) -> None:
    directory.mkdir(parents=True)
    mine, old = directory / "golden.mcap", directory / "20200101T000000Z-job1.mcap"
    for path in (mine, old):
        path.write_bytes(b"0" * 100_000)
    publisher = make(file_bytes=1000, max_bytes=2000)
    publisher.offer(PART, None)
    publisher.close()
    assert mine.is_file()
    assert not old.exists()


def free_space(monkeypatch: pytest.MonkeyPatch, free: Callable[[], int]) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("station.publisher.shutil.disk_usage", lambda _path: usage._replace(free=free()))


def test_a_nearly_full_disk_is_left_to_the_ledger(make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir(parents=True)
    for year in (2020, 2021, 2022):
        (directory / f"{year}0101T000000Z-job1.mcap").touch()
    free_space(monkeypatch, lambda: 1000 if len(names(directory)) > 1 else 3000)
    publisher = make(free_bytes=2000)
    publisher.offer(PART, FRAME)
    until(lambda: len(names(directory)) == 2)
    assert names(directory)[0].startswith("2022")


def test_a_disk_that_is_full_of_other_things_stops_recording_with_an_alarm_until_there_is_room(
    make: Make, directory: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 3000
    free_space(monkeypatch, lambda: free)
    publisher = make(free_bytes=2000)
    publisher.offer(PART, FRAME)
    path = directory / "20261118T120000Z-job1.mcap"
    until(lambda: sequences(path) == [1])
    free = 1000
    publisher.offer(replace(PART, sequence=2), FRAME)
    until(lambda: publisher.alarm != "")
    assert "the ledger needs them" in publisher.alarm
    assert summary(path)["complete"]
    free = 3000
    publisher.offer(replace(PART, sequence=3), FRAME)
    until(lambda: publisher.dropped == 2)
    assert publisher.alarm != ""
    clock.now_ns += RETRY_NS
    publisher.offer(replace(PART, sequence=4), FRAME)
    until(lambda: publisher.alarm == "")
    publisher.close()
    assert [sequences(path) for path in sorted(directory.iterdir())] == [[1], [4]]


def test_a_folder_that_cannot_be_written_is_an_alarm_and_the_line_goes_on(make: Make, directory: Path) -> None:
    directory.parent.parent.joinpath("data").write_text("a file where the folder should be")
    publisher = make()
    assert publisher.offer(PART, FRAME)
    until(lambda: publisher.alarm != "")
    assert "data" in publisher.alarm
    assert publisher.offer(PART, FRAME)
    until(lambda: publisher.dropped == 2)


def test_a_header_that_cannot_be_made_is_an_alarm_and_the_thread_lives(make: Make, directory: Path, clock: Clock) -> None:
    headers: Iterator[dict[str, object]] = iter([{}])

    def header() -> dict[str, object]:
        if clock.now_ns == 0:
            raise LookupError("no recipe 3")
        return next(headers)

    publisher = make(header=header)
    publisher.offer(PART, FRAME)
    until(lambda: "no recipe 3" in publisher.alarm)
    clock.now_ns = RETRY_NS
    publisher.offer(replace(PART, sequence=2), FRAME)
    publisher.close()
    assert publisher.alarm == ""
    assert [sequences(path) for path in directory.iterdir()] == [[2]]
