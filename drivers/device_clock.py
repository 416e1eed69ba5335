"""`DeviceClock`: when a frame was captured, from the time stamps of a device whose clock has nothing to do with this machine's."""

MAX_DRIFT = 5e-4
"""Two quartz oscillators drift apart by less than 100 ppm; a processor's, as its kernel has measured it, by a few times that."""
TRIAL_NS = 500_000_000
"""So long a device's clock is watched before it is believed."""
MAX_DISAGREEMENT = 0.1


class DeviceClock:
    """Maps the time stamps of one stream to a clock of this machine that nobody slews (CLOCK_MONOTONIC_RAW), late by the shortest transfer
    seen and never early.

    A frame cannot be received before it is captured, so the smallest difference between the two clocks seen so far bounds their offset
    from above; that bound rises with `MAX_DRIFT` so that it holds for a device whose clock is the slower one. Until the device's clock
    has kept pace for `TRIAL_NS`, and whenever it goes back, the time of receipt stands for the time of capture.
    """

    def __init__(self) -> None:
        self._first: tuple[int, int] | None = None
        self._last: tuple[int, int] = (0, 0)
        self._offset_ns = 0.0
        self._believed = False

    def captured_ns(self, device_ns: int | None, received_ns: int) -> int:
        """When the frame stamped `device_ns` (None: not stamped) and received at `received_ns` was captured; both results monotonic ns."""
        if device_ns is None:
            return received_ns
        if self._first is None or device_ns <= self._last[0]:
            return self._begin(device_ns, received_ns)
        drifted_ns = self._offset_ns + MAX_DRIFT * (received_ns - self._last[1])
        self._offset_ns = min(received_ns - device_ns, drifted_ns)
        self._last = (device_ns, received_ns)
        if not self._believed:
            device_elapsed_ns, elapsed_ns = device_ns - self._first[0], received_ns - self._first[1]
            if elapsed_ns < TRIAL_NS:
                return received_ns
            if abs(device_elapsed_ns - elapsed_ns) > MAX_DISAGREEMENT * elapsed_ns:
                return self._begin(device_ns, received_ns)
            self._believed = True
        return int(device_ns + self._offset_ns)

    def _begin(self, device_ns: int, received_ns: int) -> int:
        self._first = self._last = (device_ns, received_ns)
        self._offset_ns = received_ns - device_ns
        self._believed = False
        return received_ns
