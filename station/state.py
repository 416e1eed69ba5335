"""The states and transitions of OPC 40100-1 as one table. No input, no output, no clock.

Left out of the standard: SingleExecution is reached by no command of the wire's version 1, and step models are not used. Added to it:
a recipe may be prepared while ContinuousExecution goes on, because a changeover happens between two parts.
"""

from enum import Enum, IntEnum


class State(IntEnum):
    """OPC 40100-1's states by their numbers; 5 to 8 are the sub-states of 4, Operational."""

    PREOPERATIONAL = 1
    HALTED = 2
    ERROR = 3
    INITIALIZED = 5
    READY = 6
    SINGLE_EXECUTION = 7
    CONTINUOUS_EXECUTION = 8

    @property
    def words(self) -> str:
        """The standard's own word: `ContinuousExecution`."""
        return self.name.title().replace("_", "")


EXECUTING = frozenset({State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION})
"""The states in which parts are inspected."""


class Event(Enum):
    """What moves the station. The first five happen by themselves, the others are commanded."""

    INITIALIZE = "the camera is there"
    FAIL = "a cause of error appeared"
    RESOLVE = "the last cause of error is gone"
    PREPARING = "a recipe is being prepared"
    PREPARED = "a recipe is prepared"
    UNPREPARE = "UnprepareRecipe"
    START = "StartContinuous"
    STOP = "Stop"
    RESET = "Reset"
    HALT = "Halt"


_OPERATIONAL = (State.INITIALIZED, State.READY, State.SINGLE_EXECUTION, State.CONTINUOUS_EXECUTION)

TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PREOPERATIONAL, Event.INITIALIZE): State.INITIALIZED,
    (State.PREOPERATIONAL, Event.FAIL): State.ERROR,
    (State.PREOPERATIONAL, Event.RESET): State.PREOPERATIONAL,
    (State.PREOPERATIONAL, Event.HALT): State.HALTED,
    (State.HALTED, Event.RESET): State.PREOPERATIONAL,
    (State.ERROR, Event.RESOLVE): State.INITIALIZED,
    (State.ERROR, Event.RESET): State.PREOPERATIONAL,
    (State.ERROR, Event.HALT): State.HALTED,
    (State.INITIALIZED, Event.PREPARING): State.INITIALIZED,
    (State.INITIALIZED, Event.PREPARED): State.READY,
    (State.READY, Event.PREPARING): State.INITIALIZED,
    (State.READY, Event.UNPREPARE): State.INITIALIZED,
    (State.READY, Event.START): State.CONTINUOUS_EXECUTION,
    (State.SINGLE_EXECUTION, Event.STOP): State.READY,
    (State.CONTINUOUS_EXECUTION, Event.PREPARING): State.CONTINUOUS_EXECUTION,
    (State.CONTINUOUS_EXECUTION, Event.STOP): State.READY,
    **{(state, Event.FAIL): State.ERROR for state in _OPERATIONAL},
    **{(state, Event.RESET): State.PREOPERATIONAL for state in _OPERATIONAL},
    **{(state, Event.HALT): State.HALTED for state in _OPERATIONAL},
}


def after(state: State, event: Event) -> State | None:
    """The state that `event` leads to from `state`, or None when it is not allowed there."""
    return TRANSITIONS.get((state, event))
