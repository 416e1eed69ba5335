"""`FrameNumbers`: from the numbers that a camera counts its frames with, which exposures were lost and which were told before."""

from collections import deque
from dataclasses import dataclass

LARGEST_GAP = 10_000
HIGHEST_RATE = 1_000
"""Frames/s that no camera of a line exceeds: more numbers cannot be missing than there was time for."""
BURST = 32
"""Frames that may have waited and then come all at once: time is counted from so many frames back."""
LATE_WITHIN = 64
"""So many numbers back, a frame that is no newer than the last one is a late one or a duplicate."""
LATE_UNSTAMPED_WITHIN = 16
"""The same for a camera without time stamps, where nothing but the number tells a late frame from a count that began anew."""
TOPS = (2**16 - 1, 2**64 - 1)
"""The last number: of GigE Vision 1, and of all others."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame stands in the camera's order: its number, the exposures lost before it, and why that cannot be told (or empty)."""

    frame_id: int
    missed: int = 0
    flaw: str = ""


class FrameNumbers:
    """Tells every exposure of one stream once: as a frame, or as missed before one.

    Numbers wrap at 16 or 64 bits, to 1 as GigE Vision has it or to 0 for a camera that was seen to count 0. A number that does not follow
    the last one is not believed alone: that frame is told with a flaw, under the number it most probably has. If the next one goes on where
    the camera was before, one number was wrong; if it follows the strange one, the camera began to count anew, and what was lost at that
    moment is the one loss that nobody can tell. Without time stamps a camera that begins anew within its first 16 frames is not told from
    late frames, which are dropped.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._last_device_ns: int | None = None
        self._told = 0
        """How many numbers before `_last` belong to exposures that were told."""
        self._heard_ns: deque[int] = deque(maxlen=BURST)
        self._ahead = 0
        """Exposures told since `_last` under a number they most probably have."""
        self._strange: tuple[int, int] | None = None
        """A number that did not follow, and `_ahead` with its frame."""
        self._strange_device_ns: int | None = None
        self._counts_zero = False

    def without_number(self) -> Place:
        """The place of a frame whose number is not known: the next one. Whether the camera counted it shows at the next known number."""
        self._ahead += 1
        frame_id = self._ahead - 1 if self._last is None else self._last + self._ahead
        top = _top(self._last)
        return Place(frame_id if frame_id <= top else frame_id - top - self._counts_zero)

    def place(self, frame_id: int, device_ns: int | None, received_ns: int) -> Place | None:
        """The place of a frame; None for one that was told before, as a frame or as missed.

        Args:
            frame_id: the camera's number.
            device_ns: the time stamp of the device's clock, None where it has none.
            received_ns: monotonic ns.
        """
        self._counts_zero |= frame_id == 0
        last = self._last
        if last is None:
            return self._believe(frame_id, device_ns, received_ns, 0, 0)
        believable = min(LARGEST_GAP, LATE_WITHIN + HIGHEST_RATE * (received_ns - self._heard_ns[0]) // 1_000_000_000)
        if 0 < (steps := self._steps(last, frame_id)) <= believable:
            return self._believe(frame_id, device_ns, received_ns, self._told + steps, steps - 1 - self._ahead)
        back = self._steps(frame_id, last)
        if self._is_again(frame_id, device_ns):
            return None
        if device_ns is None or self._last_device_ns is None:
            if back <= min(self._told, LATE_UNSTAMPED_WITHIN):
                return None
        elif back <= LATE_WITHIN and device_ns <= self._last_device_ns:
            if back <= self._told:
                return None
            between, self._told = back - self._told - 1, back  # it was overtaken by the first frame of the stream
            return Place(frame_id, between, f"the camera sent frame {frame_id} after frame {last}")
        if self._strange and 0 < (steps := self._steps(self._strange[0], frame_id)) <= believable:
            return self._believe(frame_id, device_ns, received_ns, steps, steps - 1 - (self._ahead - self._strange[1]))
        place = self.without_number()
        self._strange, self._strange_device_ns = (frame_id, self._ahead), device_ns
        return Place(place.frame_id, 0, f"the camera counted {frame_id} after {last}: what was lost between cannot be told")

    def _is_again(self, frame_id: int, device_ns: int | None) -> bool:
        """A number that was just told is the same frame's, unless its stamp is a newer one: then the camera does not count."""
        known = [(self._last, self._last_device_ns)] + ([(self._strange[0], self._strange_device_ns)] if self._strange else [])
        return any(frame_id == number and not (device_ns and stamp_ns and device_ns > stamp_ns) for number, stamp_ns in known)

    def _believe(self, frame_id: int, device_ns: int | None, received_ns: int, told: int, missed: int) -> Place:
        self._last, self._last_device_ns, self._told = frame_id, device_ns, told
        self._heard_ns.append(received_ns)
        self._ahead, self._strange = 0, None
        return Place(frame_id, max(0, missed))

    def _steps(self, before: int, after: int) -> int:
        """How many counts lead from one number to the other; 0 for the same."""
        if after >= before:
            return after - before
        top = _top(before)
        return after - before + top + (self._counts_zero and before <= top)


def _top(last: int | None) -> int:
    return next(top for top in TOPS if (last or 0) <= top)
