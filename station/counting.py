"""Who counts the parts (PLC.md, rule 10), and so which part is due and where its frame comes from: one room for all three ways.

`SoftwareTriggered` is `trigger: plc`, `HardwareTriggered` is `hardware`, `FreeRunning` is `free`. Each owns the parts that wait for their
answer and hands them over one by one, oldest first, each once: with the frame to be looked at, or without one and in words why.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal, Protocol

from drivers.camera import Camera, CameraError, CameraState, Frame
from station.handshake import Asked
from station.matching import Count, Match, Matching
from station.numbering import Numbering

Counting = Literal["plc", "hardware", "free"]
"""Who counts the parts (PLC.md, rule 10)."""
MOST_FRAMES = 16
"""So many frames are taken in a turn at most, as many as a camera process holds; what comes meanwhile waits for the next one."""
_CHANGED_OVER = "the recipe was changed before it was looked at"
_STOPPED = "the line stopped before it was looked at"


class Parts(Protocol):
    """The parts that wait for their answer. Times are the monotonic clock's."""

    def begin(self, now_ns: int) -> None:
        """A job begins: nothing was counted yet, and no frame from before `now_ns` shows a part of it."""

    def change_over(self, now_ns: int) -> None:
        """The line runs on with another recipe: no frame from before `now_ns` is a picture for it."""

    def take(self, counts: Sequence[Count], begun_ns: int) -> None:
        """The line runs: takes the parts that were new in the exchange that began at `begun_ns`, oldest first, or none.

        Raises:
            MatchingError: frames and counts do not belong together. What waits still waits, until the line stands.
        """

    def stand(self, counts: Iterable[Count] = ()) -> None:
        """The line does not run: neither these parts nor those that wait have a frame, and frames that come are nobody's."""

    def next(self, asked: Asked) -> Match | None:
        """The part that is to be answered now; None when none is. `asked`: what the PLC has asked for, where it gives no numbers."""

    def awaits(self, sequence: int) -> bool:
        """True when this part has its number and no answer yet."""


def parts_of(
    counting: Counting, camera: Camera, numbering: Numbering, clock: Callable[[], int], *, window_ns: int, count_delay_ns: int
) -> Parts:
    """The parts of a line that counts in this way; `window_ns` and `count_delay_ns` as in `Matching`."""
    match counting:
        case "plc":
            return SoftwareTriggered(camera, window_ns, clock)
        case "hardware":
            return HardwareTriggered(camera, Matching(window_ns, count_delay_ns), clock)
        case "free":
            return FreeRunning(camera, numbering)


class SoftwareTriggered:
    """`plc`: a number asks for a part, and fires the camera once those before it are answered.

    Only the newest is fired: whoever was asked for before it has gone by, and must not be shown its neighbour.
    """

    def __init__(self, camera: Camera, window_ns: int, clock: Callable[[], int]) -> None:
        """`window_ns`: so long may a number wait to be fired, and then its frame to come."""
        self._camera, self._window_ns, self._clock = camera, window_ns, clock
        self._missed: deque[Match] = deque()
        self._newest: Count | None = None

    def begin(self, now_ns: int) -> None:
        """See `Parts.begin`; frames are fired for, so none is from before."""

    def change_over(self, now_ns: int) -> None:
        """See `Parts.change_over`; what waits is fired for the new recipe."""

    def take(self, counts: Sequence[Count], begun_ns: int) -> None:  # noqa: ARG002
        """See `Parts.take`."""
        for count in counts:
            self._miss_newest(f"missed before part {counts[-1].sequence}")
            self._newest = count

    def stand(self, counts: Iterable[Count] = ()) -> None:
        """See `Parts.stand`."""
        self._miss_newest(_STOPPED)
        self._missed.extend(Match(count, None) for count in counts)

    def next(self, asked: Asked) -> Match | None:  # noqa: ARG002
        """See `Parts.next`. A part waits for a camera that is being reconfigured, no longer than its window."""
        if self._missed:
            return self._missed.popleft()
        if self._newest is None:
            return None
        waited_ns = self._clock() - self._newest.heard_ns
        if waited_ns < self._window_ns and self._camera.status().state is CameraState.OPENING:
            return None
        count, self._newest = self._newest, None
        return Match(count, *self._fire(count))

    def awaits(self, sequence: int) -> bool:
        """See `Parts.awaits`."""
        return _is_among(self._missed, sequence) or (self._newest is not None and self._newest.sequence == sequence)

    def _miss_newest(self, why: str) -> None:
        if self._newest is not None:
            self._missed.append(Match(self._newest, None, why))
            self._newest = None

    def _fire(self, count: Count) -> tuple[Frame | None, str]:
        """Fires the camera and waits for this part's frame; when there is none, the words say why."""
        fired_ns = self._clock()
        if fired_ns - count.heard_ns > self._window_ns:
            return None, f"the trigger is {(fired_ns - count.heard_ns) / 1e6:.0f} ms old: the part has gone"
        try:
            self._camera.trigger()
            frame = self._camera.fetch(self._window_ns / 1e9)
        except CameraError as error:
            return None, str(error)
        if frame is None:
            return None, f"no frame within {self._window_ns / 1e6:.0f} ms of the trigger"
        if frame.captured_ns < fired_ns:
            return None, f"frame {frame.frame_id} was captured before the trigger"
        return frame, ""


class HardwareTriggered:
    """`hardware`: numbers wait for the frames that the sensor fired, frames for the count of their part."""

    def __init__(self, camera: Camera, matching: Matching, clock: Callable[[], int]) -> None:
        self._frames, self._matching, self._clock = _Unasked(camera), matching, clock
        self._due: deque[Match] = deque()

    def begin(self, now_ns: int) -> None:
        """See `Parts.begin`."""
        self._frames.since_ns = now_ns
        self._matching.forget()

    def change_over(self, now_ns: int) -> None:
        """See `Parts.change_over`."""
        self._frames.since_ns = now_ns
        self._without_frames(_CHANGED_OVER)

    def take(self, counts: Sequence[Count], begun_ns: int) -> None:
        """See `Parts.take`."""
        self._matching.heard([*counts], begun_ns)
        for frame in self._frames.take(MOST_FRAMES):
            self._matching.see(frame)
        for match in self._matching.decide(self._clock()):
            self._due.append(match)

    def stand(self, counts: Iterable[Count] = ()) -> None:
        """See `Parts.stand`."""
        self._frames.take(MOST_FRAMES)
        self._without_frames(_STOPPED)
        self._due.extend(Match(count, None) for count in counts)

    def next(self, asked: Asked) -> Match | None:  # noqa: ARG002
        """See `Parts.next`."""
        return self._due.popleft() if self._due else None

    def awaits(self, sequence: int) -> bool:
        """See `Parts.awaits`."""
        return _is_among(self._due, sequence) or self._matching.awaits(sequence)

    def _without_frames(self, why: str) -> None:
        due = [replace(match, frame=None, detail=match.detail or why) for match in self._due]
        self._due = deque([*due, *(replace(match, detail=why) for match in self._matching.abandon())])


class FreeRunning:
    """`free`: the station numbers the frames itself; one that the camera counted and lost has a number too."""

    def __init__(self, camera: Camera, numbering: Numbering) -> None:
        self._frames, self._numbering = _Unasked(camera), numbering
        self._due: deque[Match] = deque()
        self._changed_over_ns = 0

    def begin(self, now_ns: int) -> None:
        """See `Parts.begin`."""
        self._frames.since_ns = now_ns
        self._numbering.begin_anew()

    def change_over(self, now_ns: int) -> None:
        """See `Parts.change_over`. A frame from before keeps its number: it is a part's, and shifts none."""
        self._changed_over_ns = now_ns
        self._without_frames(_CHANGED_OVER)

    def take(self, counts: Sequence[Count], begun_ns: int) -> None:
        """See `Parts.take`; what the PLC counts means nothing here."""

    def stand(self, counts: Iterable[Count] = ()) -> None:  # noqa: ARG002
        """See `Parts.stand`."""
        self._frames.take(MOST_FRAMES)
        self._without_frames(_STOPPED)

    def next(self, asked: Asked) -> Match | None:
        """See `Parts.next`."""
        if not self._due:
            for frame in self._frames.take(1):
                self._number(frame, asked)
        return self._due.popleft() if self._due else None

    def awaits(self, sequence: int) -> bool:
        """See `Parts.awaits`."""
        return _is_among(self._due, sequence)

    def _number(self, frame: Frame, asked: Asked) -> None:
        missed = frame.missed if self._numbering.last else 0  # what was lost before the first one was another job's
        for _ in range(missed):
            self._due.append(Match(self._count(frame, asked), None, "the camera lost the frame"))
        if frame.captured_ns < self._changed_over_ns:
            self._due.append(Match(self._count(frame, asked), None, _CHANGED_OVER))
        else:
            self._due.append(Match(self._count(frame, asked), frame))

    def _count(self, frame: Frame, asked: Asked) -> Count:
        return Count(self._numbering.give(), "", frame.captured_ns, asked)

    def _without_frames(self, why: str) -> None:
        self._due = deque(replace(match, frame=None, detail=match.detail or why) for match in self._due)


class _Unasked:
    """The frames that the camera takes by itself, without those from before `since_ns`."""

    def __init__(self, camera: Camera) -> None:
        self.since_ns = 0
        self._camera = camera

    def take(self, most: int) -> list[Frame]:
        """Up to so many of those that wait, in the camera's order."""
        frames: list[Frame] = []
        with suppress(CameraError):  # its status says it too, and stops the line
            while len(frames) < most and (frame := self._camera.fetch(0)):
                frames.append(frame)
        return [frame for frame in frames if frame.captured_ns >= self.since_ns]


def _is_among(due: Iterable[Match], sequence: int) -> bool:
    return any(match.count.sequence == sequence for match in due)
