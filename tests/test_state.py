"""The states are OPC 40100-1's, and nothing runs but by the table."""

import itertools

import pytest

from station.state import EXECUTING, TRANSITIONS, Event, State, after


def test_the_numbers_are_the_standard_s() -> None:
    assert {state.words: int(state) for state in State} == {
        "Preoperational": 1,
        "Halted": 2,
        "Error": 3,
        "Initialized": 5,
        "Ready": 6,
        "SingleExecution": 7,
        "ContinuousExecution": 8,
    }


def test_parts_are_inspected_in_the_two_executions_only() -> None:
    assert {State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION} == EXECUTING


def test_the_way_from_power_up_to_running_and_back() -> None:
    state: State | None = State.PREOPERATIONAL
    for event, expected in (
        (Event.INITIALIZE, State.INITIALIZED),
        (Event.PREPARED, State.READY),
        (Event.START, State.CONTINUOUS_EXECUTION),
        (Event.STOP, State.READY),
        (Event.UNPREPARE, State.INITIALIZED),
        (Event.HALT, State.HALTED),
        (Event.RESET, State.PREOPERATIONAL),
    ):
        assert state is not None
        state = after(state, event)
        assert state is expected


@pytest.mark.parametrize("state", [state for state in State if state is not State.READY])
def test_only_ready_can_start(state: State) -> None:
    assert after(state, Event.START) is None


@pytest.mark.parametrize("state", list(State))
def test_reset_is_always_executable(state: State) -> None:
    assert after(state, Event.RESET) is State.PREOPERATIONAL


@pytest.mark.parametrize("state", [state for state in State if state not in (State.ERROR, State.HALTED)])
def test_a_cause_of_error_leads_to_error_from_everywhere_but_halted(state: State) -> None:
    assert after(state, Event.FAIL) is State.ERROR
    assert after(State.HALTED, Event.FAIL) is None


def test_an_error_never_leads_back_to_running_by_itself() -> None:
    assert after(State.ERROR, Event.RESOLVE) is State.INITIALIZED
    assert all(TRANSITIONS.get((State.ERROR, event)) not in EXECUTING for event in Event)


def test_a_changeover_in_a_running_line_goes_on_running() -> None:
    assert after(State.CONTINUOUS_EXECUTION, Event.PREPARING) is State.CONTINUOUS_EXECUTION
    assert after(State.CONTINUOUS_EXECUTION, Event.UNPREPARE) is None


def test_running_is_entered_by_start_alone() -> None:
    entries = {event for (state, event), to in TRANSITIONS.items() if to in EXECUTING and state not in EXECUTING}
    assert entries == {Event.START}


def test_every_other_event_in_every_other_state_is_refused() -> None:
    refused = [pair for pair in itertools.product(State, Event) if after(*pair) is None]
    assert len(refused) == len(State) * len(Event) - len(TRANSITIONS)
    assert (State.PREOPERATIONAL, Event.PREPARING) in refused


@pytest.mark.parametrize("state", [state for state in State if state is not State.HALTED])
def test_halt_is_allowed_everywhere_but_in_halted(state: State) -> None:
    assert after(state, Event.HALT) is State.HALTED


WAYS = """
Preoperational      Initialize->Initialized Fail->Error Reset->Preoperational Halt->Halted
Halted              Reset->Preoperational
Error               Resolve->Initialized Reset->Preoperational Halt->Halted
Initialized         Preparing->Initialized Prepared->Ready Fail->Error Reset->Preoperational Halt->Halted
Ready               Preparing->Initialized Unprepare->Initialized Start->ContinuousExecution Fail->Error Reset->Preoperational Halt->Halted
SingleExecution     Stop->Ready Fail->Error Reset->Preoperational Halt->Halted
ContinuousExecution Preparing->ContinuousExecution Stop->Ready Fail->Error Reset->Preoperational Halt->Halted
"""


def test_there_are_these_ways_from_state_to_state_and_no_others() -> None:
    written = {}
    for line in WAYS.strip().splitlines():
        state, *ways = line.split()
        for way in ways:
            event, _, leads_to = way.partition("->")
            written[state, event.upper()] = leads_to
    there = {(state.words, event.name): to for state in State for event in Event if (to := after(state, event)) is not None}
    assert {way: state.words for way, state in there.items()} == written
