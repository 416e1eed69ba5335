"""`drivers.device_clock`: late at most, never early, and quiet about a clock that is none."""

import random

import pytest

from drivers.device_clock import MAX_DRIFT, DeviceClock

MS = 1_000_000
PERIOD_NS = 11 * MS
BOOT_NS = 5_000 * MS


@pytest.mark.parametrize("drift", [-MAX_DRIFT, 0.0, MAX_DRIFT])
def test_a_capture_is_never_early_whatever_the_transfer_and_the_drift(drift: float) -> None:
    chance = random.Random(1)
    clock = DeviceClock()
    for i in range(20_000):
        captured_ns = BOOT_NS + i * PERIOD_NS
        received_ns = captured_ns + 2 * MS + int(chance.expovariate(1 / (3 * MS)))
        assert captured_ns <= clock.captured_ns(int(i * PERIOD_NS * (1 + drift)) + 1, received_ns) <= received_ns


def test_a_frame_that_waited_in_a_buffer_is_dated_to_its_transfer() -> None:
    clock = DeviceClock()
    for i in range(100):
        clock.captured_ns(i * PERIOD_NS + 1, BOOT_NS + i * PERIOD_NS + 2 * MS)
    captured_ns = BOOT_NS + 100 * PERIOD_NS
    told_ns = clock.captured_ns(100 * PERIOD_NS + 1, captured_ns + 400 * MS)
    assert captured_ns <= told_ns < captured_ns + 3 * MS


def test_a_clock_is_not_believed_before_it_was_watched() -> None:
    clock = DeviceClock()
    for i in range(20):
        received_ns = BOOT_NS + i * PERIOD_NS + i % 3 * MS
        assert clock.captured_ns(i * PERIOD_NS + 1, received_ns) == received_ns


@pytest.mark.parametrize("ticks_per_ns", [1e-3, 0.125, 8.0])
def test_stamps_of_another_unit_are_not_believed(ticks_per_ns: float) -> None:
    clock = DeviceClock()
    for i in range(1000):
        received_ns = BOOT_NS + i * PERIOD_NS
        assert clock.captured_ns(int(i * PERIOD_NS * ticks_per_ns) + 1, received_ns) == received_ns


def test_a_clock_that_goes_back_is_watched_anew() -> None:
    clock = DeviceClock()
    for i in range(100):
        clock.captured_ns(BOOT_NS + i * PERIOD_NS, BOOT_NS + i * PERIOD_NS + 2 * MS)
    received_ns = BOOT_NS + 100 * PERIOD_NS + 30 * MS
    assert clock.captured_ns(1, received_ns) == received_ns


def test_without_stamps_the_receipt_counts() -> None:
    assert DeviceClock().captured_ns(None, 7) == 7
