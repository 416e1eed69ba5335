"""Which recipe is prepared, and for whom: the PLC asked for it, an operator did, or it was named for the start."""

from collections.abc import Callable

from drivers.plc import ErrorCode
from station.changeover import Changeover, Finish
from station.condition import Condition
from station.handshake import Handshake
from station.state import Event

AGAIN_AFTER_NS = 10_000_000_000
"""The recipe of the start is prepared again so much later when it was only the camera that failed."""


class Preparing:
    """Begins changeovers and notes what comes of them; owns the name of the recipe that is still to be prepared at the start."""

    def __init__(
        self, changeover: Changeover, handshake: Handshake, condition: Condition, clock: Callable[[], int], first: str | int
    ) -> None:
        """`first`: the recipe to prepare at the start, unless another one is asked for before; none when it is empty or 0."""
        self._changeover, self._handshake, self._condition, self._clock = changeover, handshake, condition, clock
        self._first = first
        self._not_before_ns = clock()

    def begin(self, which: str | int, finish: Finish) -> None:
        """Begins to prepare a recipe by its name or number, where that is allowed."""

        def finish_preparing(code: ErrorCode, why: str) -> None:
            inspector = self._changeover.inspector
            if not code and inspector is not None:
                recipe = inspector.recipe
                self._condition.note("recipe", f"{recipe.name} {recipe.number} {recipe.hash} {inspector.engine}")
            finish(code, why)

        self._changeover.begin(which, finish_preparing, self._clock())
        self._first = ""
        self._condition.move(Event.PREPARING)

    def begin_first(self) -> None:
        """Prepares what the site or the PLC's last request names, if it still is to be; again later when it was only interrupted."""
        if not (which := self._first) or self._clock() < self._not_before_ns:
            return

        def finish(code: ErrorCode, why: str) -> None:
            if code == ErrorCode.COMMAND_SUPERSEDED:
                self._first = which
            elif code:
                self._condition.note("recipe refused", why)
                if self._changeover.configuring:  # the recipe is good; the camera did not take it, or went away meanwhile
                    self._first, self._not_before_ns = which, self._clock() + AGAIN_AFTER_NS

        self.begin(which, finish)

    def asked_by_plc(self, number: int, finish: Finish) -> Finish:
        """From now on only this recipe can pass a part; when what is returned hears that it is refused, the one before it can again."""
        asking = self._handshake.ask(number)
        self._note_asked()

        def finish_asking(code: ErrorCode, why: str) -> None:
            inspector = self._changeover.inspector
            if code or inspector is None:
                self._handshake.refuse(asking)
            else:
                self._handshake.grant(asking, inspector.recipe.hash)
            self._note_asked()
            finish(code, why)

        return finish_asking

    def released_by_plc(self) -> None:
        """The PLC asks for nothing any more: whatever is prepared may pass a part."""
        self._handshake.release()
        self._note_asked()

    def unprepare(self) -> None:
        """Leaves no recipe prepared, and none to be prepared by itself."""
        self._changeover.unprepare()
        self._first = ""

    def _note_asked(self) -> None:
        self._condition.note("asked", str(self._handshake.asked))
