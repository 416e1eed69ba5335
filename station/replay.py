"""Composition root of `station replay` and `station inspect`: the same `Line`; its camera is recorded, its PLC listens, its clock is set.

Whatever decided when the part was made decides again here, through the same code; only what stands at the ends differs. The PLC of a replay
asks for what the recording says was asked, and listens; time stands where it stood when the part was triggered and when it was judged.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from drivers.camera import Frame
from drivers.plc import Command, CommandStatus, PlcCommand, PlcInput, StationSignals, Trigger
from station import inspector, report
from station.config import Home
from station.inspection import Reason, Result
from station.inspector import Inspector
from station.ledger import Ledger
from station.line import Line, LineSettings
from station.recipe import Recipe, RecipeError, find
from station.recording import RecordedCamera, RecordedPart, locate, read
from station.sequence import following
from station.state import EXECUTING, State
from station.vision.preprocess import rgb_from_file

InspectorOf = Callable[[int], Inspector]
"""The prepared inspector of the recipe with this number; raises RecipeError."""
_TURNS = 50
_HOUR_NS = 3_600_000_000_000


class ReplayError(Exception):
    """The recording cannot be replayed here; the message says what is missing."""


class ListeningPlc:
    """A PLC that says what it is given to say and acknowledges everything it hears."""

    simulated = True

    def __init__(self) -> None:
        self.command = PlcCommand(Command.NONE, 0, 0)
        self.trigger = Trigger(0)
        self.heard: StationSignals | None = None
        self._heartbeat = 0

    def exchange(self, signals: StationSignals) -> PlcInput:
        self.heard = signals
        self._heartbeat = (self._heartbeat + 1) % 65_536
        return PlcInput(self._heartbeat, self.command, signals.result.sequence, (self.trigger,))

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class RecordedClock:
    """The monotonic clock of the recording: stands where it was set."""

    now_ns: int = 0

    def __call__(self) -> int:
        return self.now_ns


class Rerun:
    """A line whose ends are recorded. Give it one part after the other; each gets its answer through `Line.step`.

    Attributes:
        elapsed_ms: how long the last part took from trigger to answer here, its recipe already prepared.
    """

    def __init__(self, inspector_of: InspectorOf) -> None:
        self._inspector_of = inspector_of
        self._folder = tempfile.TemporaryDirectory(prefix="station-replay-")
        self._clock = RecordedClock()
        self._plc = ListeningPlc()
        self._part: RecordedPart | None = None
        self._hold = False
        self._asks: int | None = 0
        self.elapsed_ms = 0.0
        self._line = Line(
            camera=RecordedCamera(self._frames()),
            plc=self._plc,
            ledger=Ledger(Path(self._folder.name) / "ledger.sqlite"),
            prepare=self._prepare,
            settings=LineSettings(frame_window_ns=_HOUR_NS, acknowledge_ns=_HOUR_NS, heartbeat_ns=0),
            clock=self._clock,
            wall_clock=time.time_ns,
        )
        self._until(lambda: self._line.state is State.INITIALIZED, "the line did not come up")

    def answer(self, part: RecordedPart) -> Result:
        """The answer to this part under the recipe, the request and the running state that the recording names for it.

        Raises:
            RecipeError: that recipe cannot be prepared here.
        """
        self._part = part
        self._clock.now_ns = part.triggered_ns
        running = part.reason != Reason.NOT_RUNNING
        if part.sequence != following(self._plc.trigger.sequence):
            self._restart_count()
        if running:
            self._run(part)
        elif self._line.state in EXECUTING:
            self._say(Command.STOP)
        self._clock.now_ns = part.triggered_ns
        self._plc.trigger = Trigger(part.sequence, part.part_id)
        begun = time.perf_counter()
        for _ in range(_TURNS):
            for result, _frame in self._line.step():
                if result.sequence == part.sequence:
                    self.elapsed_ms = (time.perf_counter() - begun) * 1e3
                    return result
        raise ReplayError(f"part {part.sequence} was not answered in {_TURNS} turns")

    def close(self) -> None:
        """Gives the temporary ledger back."""
        self._line.close()
        self._folder.cleanup()

    def _frames(self) -> Iterator[Frame | None]:
        """What the camera sees when it is fired: this part's frame, at the moment it was judged."""
        while True:
            assert self._part is not None
            self._clock.now_ns = self._part.judged_ns
            yield self._part.frame

    def _run(self, part: RecordedPart) -> None:
        """Brings the line to where it was: this recipe prepared, that one asked for, parts being made."""
        if self._line.state is State.ERROR:
            self._say(Command.RESET)
        status = self._line.status()
        wrong = part.reason == Reason.WRONG_RECIPE
        wanted = 0 if not part.asked_recipe else part.recipe_number
        if self._asks != wanted or status["recipe_number"] != part.recipe_number:
            if wanted:
                self._say(Command.PREPARE_RECIPE, wanted)
            else:
                self._prepare_unasked(part.recipe_number)
            self._asks = wanted
        self._until(lambda: self._line.state in (State.READY, *EXECUTING), "the line is not ready")
        if self._line.state is State.READY:
            self._say(Command.START_CONTINUOUS)
        if wrong:
            self._hold = True
            self._say(Command.PREPARE_RECIPE, part.asked_recipe)
            self._hold, self._asks = False, None

    def _prepare_unasked(self, number: int) -> None:
        if self._line.status()["asked_recipe"]:
            self._say(Command.STOP)
            self._say(Command.UNPREPARE_RECIPE)
        outcome: list[str] = []
        self._line.command(Command.PREPARE_RECIPE, str(number), lambda _code, why: outcome.append(why))
        self._until(lambda: bool(outcome), f"recipe {number} was not prepared")
        if outcome[0]:
            raise RecipeError(outcome[0])
        self._until(lambda: self._line.state is not State.INITIALIZED, f"recipe {number} was not prepared")

    def _say(self, command: Command, argument: int = 0) -> None:
        """Commands as a PLC does, and waits until it is done; a recipe that is held stays on its way."""
        self._plc.command = PlcCommand(command, argument, self._plc.command.sequence % 65_535 + 1)
        self._line.step()
        self._line.step()
        if self._hold:
            return
        self._until(lambda: self._finished(command), f"{command.name} {argument} was not done")
        if self._plc.heard and self._plc.heard.command_status is CommandStatus.FAILED and command is Command.PREPARE_RECIPE:
            raise RecipeError(f"recipe {argument} cannot be prepared here: see `station recipe check`")
        self._plc.command = PlcCommand(Command.NONE, 0, self._plc.command.sequence)

    def _finished(self, command: Command) -> bool:
        heard = self._plc.heard
        done = heard is not None and heard.command_status in (CommandStatus.DONE, CommandStatus.FAILED)
        return done and (command is not Command.PREPARE_RECIPE or self._line.state is not State.INITIALIZED)

    def _restart_count(self) -> None:
        """A new numbering, as a PLC begins one: not while the line runs."""
        if self._line.state in EXECUTING:
            self._say(Command.STOP)
        assert self._part is not None
        self._plc.trigger = Trigger(0)
        self._line.step()
        self._line.step()

    def _until(self, reached: Callable[[], bool], otherwise: str) -> None:
        for _ in range(_TURNS):
            if reached():
                return
            self._line.step()
        raise ReplayError(f"{otherwise}: {'; '.join(self._line.causes.values()) or self._line.state.words}")

    def _prepare(self, which: str | int) -> "Future[Inspector]":
        future: Future[Inspector] = Future()
        if self._hold:
            return future
        try:
            future.set_result(self._inspector_of(int(which)))
        except RecipeError as error:
            future.set_exception(error)
        return future


def replay(home: Home, device: str, recording: str, recipe_name: str | None = None) -> dict[str, Any]:
    """Answers every part of a recording again, each under its own recipe, or all under `recipe_name` ("was -> would be").

    Compared are verdict, reason, class, probability and defects, exactly. What may differ is not compared: times, ids of jobs, and the
    recipe's hash; that a recipe is no longer the recorded one is said in `recipes_changed`.

    Raises:
        RecordingError: the recording cannot be read.
        RecipeError: a recipe it needs cannot be prepared here.
        ReplayError: there is nothing to replay.
    """
    path = locate(home.recordings, recording)
    only = find(home.recipes, recipe_name) if recipe_name else None
    changed: dict[str, str] = {}
    differences: list[dict[str, Any]] = []
    times_ms: list[float] = []
    different = skipped = 0
    with closing(Rerun(_prepared_once(home, device))) as rerun:
        for recorded in read(path):
            if recorded.dropped:
                skipped += 1
                continue
            part = replace(recorded, recipe_number=only.number, asked_recipe=0) if only else recorded
            result = rerun.answer(part)
            times_ms.append(rerun.elapsed_ms)
            if result.inspection and result.recipe_hash != recorded.recipe_hash and not only:
                changed[str(recorded.recipe_number)] = f"{recorded.recipe_hash[:12]} -> {result.recipe_hash[:12]}"
            found = _differences(recorded, result)
            different += bool(found)
            differences += found
    if not times_ms:
        raise ReplayError(f"{path}: holds no part to replay")
    return {
        "recording": path.name,
        "recipe": only.name if only else "the recorded recipes",
        "recipes_changed": changed,
        "parts": len(times_ms),
        "skipped": skipped,
        "same": len(times_ms) - different,
        "different": different,
        "differences": differences,
        "latency_ms": report.percentiles(times_ms),
    }


def inspect(home: Home, device: str, recipe_name: str, images: Iterable[Path]) -> Iterator[tuple[str, Result, float]]:
    """Each picture file through the line under this recipe, as a frame of its own: name, answer, and milliseconds.

    Raises:
        RecipeError: the recipe cannot be prepared.
        ReplayError: a file is no readable picture; those before it were answered.
    """
    recipe = find(home.recipes, recipe_name)
    with closing(Rerun(_prepared_once(home, device))) as rerun:
        for sequence, image in enumerate(images, start=1):
            try:
                frame = Frame(rgb_from_file(image), "RGB8", sequence, 0, sequence)
            except ValueError as error:
                raise ReplayError(str(error)) from None
            yield str(image), rerun.answer(_picture(sequence, recipe, frame)), rerun.elapsed_ms


def _picture(sequence: int, recipe: Recipe, frame: Frame) -> RecordedPart:
    """A picture as a part of a recording that was never answered."""
    return RecordedPart(
        job_id=1,
        sequence=sequence,
        part_id="",
        verdict="",
        reason=Reason.NONE,
        asked_recipe=0,
        recipe_number=recipe.number,
        recipe_hash=recipe.hash,
        class_index=None,
        class_name=None,
        probability=None,
        scores={},
        defects=(),
        triggered_ns=sequence,
        judged_ns=sequence,
        is_simulated=True,
        detail="",
        dropped=False,
        frame=frame,
    )


def _prepared_once(home: Home, device: str) -> InspectorOf:
    @cache
    def prepared(number: int) -> Inspector:
        return inspector.prepare(find(home.recipes, number), home.weights, home.engines, device)

    return prepared


def _differences(recorded: RecordedPart, result: Result) -> list[dict[str, Any]]:
    seen = result.inspection
    was = {
        "verdict": recorded.verdict,
        "reason": Reason(recorded.reason).name.lower(),
        "class": recorded.class_name,
        "probability": recorded.probability,
        "defects": report.defects(recorded.defects),
    }
    now = {
        "verdict": result.verdict.value,
        "reason": result.reason.name.lower(),
        "class": seen.class_name if seen else None,
        "probability": seen.probability if seen else None,
        "defects": report.defects(seen.defects) if seen else [],
    }
    return [{"part": recorded.sequence, "field": key, "was": was[key], "is": now[key]} for key in was if was[key] != now[key]]
