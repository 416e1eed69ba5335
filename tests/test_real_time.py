"""The line's thread comes first, alone, and for as long as it turns."""

import gc
import os
import threading

import pytest

from station.real_time import real_time


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


def test_only_the_thread_that_turns_the_line_comes_before_the_others() -> None:
    seen: list[int] = []
    with real_time() as refused:
        if refused:
            pytest.skip(refused)
        other = threading.Thread(target=lambda: seen.append(policy()))
        other.start()
        other.join()
        seen.append(policy())
    seen.append(policy())
    assert seen == [os.SCHED_OTHER, os.SCHED_RR, os.SCHED_OTHER]


def test_what_was_there_before_is_not_looked_through_for_garbage_while_the_line_turns() -> None:
    with real_time():
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 10_000
    assert gc.get_freeze_count() == 0


def test_a_machine_that_allows_no_priority_says_so_and_the_line_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with real_time() as refused:
        assert refused == "the line's thread gets no real-time priority: Operation not permitted"
