"""The slow tail behind the answer: a thread that records parts and their pictures, and that the line never waits for."""

import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from drivers.camera import Frame
from station.inspection import Result, Verdict
from station.recording import Recorder, RecordingError

Keep = Literal["all", "failed", "none"]

WAITING_PARTS = 1000
"""Parts without pictures wait beyond the pictures' queue up to this many; then the disk has been gone for long."""
RETRY_NS = 30_000_000_000
"""After an error, recording tries again so much later."""

_OWN_NAME = re.compile(r"\d{8}T\d{6}Z-job\d+\.mcap")


class Publisher:
    """Records what is offered, into one file for each job, and deletes the oldest recordings for the new ones.

    `offer` and `close` come from one thread, which never waits for the disk and never sees its errors: they are told by `alarm`.

    Attributes:
        alarm: the last error in words; "" when there was none, and again when recording goes on.
    """

    def __init__(
        self,
        directory: Path,
        header: Callable[[], Mapping[str, object]],
        *,
        keep: Keep,
        pictures: int,
        file_bytes: int,
        max_bytes: int,
        free_bytes: int,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Starts the thread; the first recording begins with the first part.

        Args:
            directory: where recordings are; made if it is not there. Only files named as recordings are named are ever deleted.
            header: gives the header of a recording as it begins; called by the thread.
            keep: which parts are recorded: all, those that failed, or none.
            pictures: how many pictures may wait in memory.
            file_bytes: a recording that is longer goes on in a new file.
            max_bytes: what all recordings together may take.
            free_bytes: what stays free on the disk for the ledger, whatever `max_bytes` says.
            clock, wall_clock: monotonic and wall clock, ns.
        """
        self.alarm = ""
        self._directory, self._header, self._keep = directory, header, keep
        self._file_bytes, self._max_bytes, self._free_bytes = min(file_bytes, max_bytes), max_bytes, free_bytes
        self._clock, self._wall_clock = clock, wall_clock
        self._items: SimpleQueue[tuple[Result, Frame | None, bool] | None] = SimpleQueue()
        self._room = threading.Semaphore(pictures)
        self._refused = self._lost = 0
        self._recorder: Recorder | None = None
        self._path = Path()
        self._job_id = 0
        self._paused_until_ns = 0
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many offered parts lost their picture, or were lost with it: the queue was full, or recording stands still."""
        return self._refused + self._lost

    def offer(self, result: Result, frame: Frame | None) -> bool:
        """Takes a part to be recorded, within a millisecond; False when its picture is dropped.

        When the queue is full only the picture is dropped: the part is recorded and says so.
        """
        if self._keep == "none" or (self._keep == "failed" and result.verdict is not Verdict.FAIL):
            return True
        if self._given_up.is_set() or self._items.qsize() >= WAITING_PARTS:
            self._refused += 1
            return False
        taken = frame is None or self._room.acquire(blocking=False)
        self._items.put((result, frame if taken else None, not taken))
        self._refused += not taken
        return taken

    def close(self, timeout_s: float = 5.0) -> None:
        """Records what waits and completes the recording, within `timeout_s`; what is left then is lost, and `alarm` says so."""
        self._items.put(None)
        self._thread.join(timeout_s)
        self._given_up.set()
        if self._thread.is_alive():
            self.alarm = f"recordings in {self._directory}: {self._items.qsize()} parts were still waiting for the disk at the stop"

    def _run(self) -> None:
        while (item := self._items.get()) is not None and not self._given_up.is_set():
            result, frame, dropped = item
            self._record(result, frame, dropped)
            if frame is not None:
                self._room.release()
        self._finish()

    def _record(self, result: Result, frame: Frame | None, dropped: bool) -> None:
        if self._clock() < self._paused_until_ns:
            self._lost += 1
            return
        try:
            self._recorder_for(result.job_id).write(result, frame, dropped)
            self.alarm = ""
        except Exception as error:  # noqa: BLE001  whatever goes wrong here must become an alarm: the line goes on without recordings
            self._lost += 1
            self._finish()
            self.alarm = str(error) or type(error).__name__
            self._paused_until_ns = self._clock() + RETRY_NS

    def _recorder_for(self, job_id: int) -> Recorder:
        if self._recorder and (job_id != self._job_id or self._recorder.size_bytes >= self._file_bytes):
            self._finish()
        if self._recorder is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._make_room(self._file_bytes)
            self._path, self._job_id = self._new_path(job_id), job_id
            self._recorder = Recorder(self._path, self._header(), self._wall_clock() - self._clock())
        elif self._free() < self._free_bytes:
            self._make_room(self._recorder.size_bytes)
        return self._recorder

    def _make_room(self, growing_bytes: int) -> None:
        """Deletes the oldest recordings until one of so many bytes fits; never the one being written."""
        others = sorted(path for path in self._directory.iterdir() if _OWN_NAME.fullmatch(path.name) and not self._is_open(path))
        total = sum(path.stat().st_size for path in others)
        for path in others:
            if total + growing_bytes <= self._max_bytes and self._free() >= self._free_bytes:
                return
            total -= path.stat().st_size
            path.unlink()
        if self._free() < self._free_bytes:
            raise RecordingError(
                f"recordings in {self._directory}: less than {self._free_bytes >> 20} MiB are free on the disk, and the ledger needs them; "
                "delete what is not needed"
            )

    def _is_open(self, path: Path) -> bool:
        return self._recorder is not None and path == self._path

    def _free(self) -> int:
        return shutil.disk_usage(self._directory).free

    def _new_path(self, job_id: int) -> Path:
        """A name that is free: the second that begins now, or the next one that no recording of this job has."""
        second = self._wall_clock() // 1_000_000_000
        while (path := self._directory / f"{datetime.fromtimestamp(second, UTC):%Y%m%dT%H%M%SZ}-job{job_id}.mcap").exists():
            second += 1
        return path

    def _finish(self) -> None:
        recorder, self._recorder = self._recorder, None
        try:
            if recorder:
                recorder.close()
        except RecordingError as error:
            self.alarm = str(error)
