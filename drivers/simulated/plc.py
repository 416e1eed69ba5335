"""The simulated PLC: what a careful PLC programmer would write against the wire's version 1.

The program is cyclic like a PLC's: each scan takes the station's registers and the time and returns the command block. It does no I/O;
`judge` watches the station and `conveyor` moves the parts.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from drivers.simulated.judge import CONTINUOUS, READY, Counts, Judge, Recipe

COMMAND_REGISTERS = range(32, 46)
LAST_SEQUENCE = 65535
PREPARE_RECIPE, START_CONTINUOUS, STOP = 1, 3, 4
COMMANDS = {PREPARE_RECIPE: "PrepareRecipe", START_CONTINUOUS: "StartContinuous", STOP: "Stop"}
IDLE, DONE, FAILED = 0, 2, 3

COMMAND_TIMEOUT_S = 60.0
STATE_TIMEOUT_S = 5.0
RETURN_TIMEOUT_S = 120.0
RETRY_PAUSE_S = 1.0
MOST_ATTEMPTS = 5

Steps = Generator[None, None, None]
"""A part of the program: it goes on by one step in every scan."""


@dataclass(frozen=True, slots=True)
class Batch:
    """So many parts of the product that `recipe` inspects. With `keep_running` the line feeds the old product until the recipe is there."""

    recipe: int
    parts: int
    keep_running: bool = False


class Conveyor(Protocol):
    """What brings parts before the camera and takes them away."""

    def present(self, batch: int) -> str | None:
        """Puts the next part of batch number `batch` before the camera and returns its id, up to 16 ASCII characters.

        None when that part has not arrived yet: a scan never waits.
        """

    def sort(self, part_id: str, good: bool) -> None:
        """Drops that part into the good bin or the reject bin."""


class _LossError(Exception):
    """The station cannot go on with the schedule as it stands; the message says why."""


class _GivenUpError(Exception):
    """The schedule cannot be finished; the message says why."""


class PlcProgram:
    """Runs a schedule of batches on the station. All time is the `now_s` of `scan`.

    A station that is lost costs the part in flight; the program waits for it, prepares and starts it again, and gives up after
    `MOST_ATTEMPTS` without an answered part in between.

    Attributes:
        finished: the schedule is through, or was given up (then `counts.violations` says why).
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        conveyor: Conveyor,
        *,
        deadline_ms: int,
        part_timeout_s: float,
        interval_s: float = 0.05,
        fire: Callable[[], None] | None = None,
        announces: bool = True,
    ) -> None:
        """The station may let its heartbeat stand still for `deadline_ms` + 500 ms, and has `part_timeout_s` to answer a part.

        Args:
            fire: the sensor, where it and not the station fires the camera.
            announces: whether a part's number is written for the station; without it both count from 1 at StartContinuous.
        """
        self.finished = False
        self._batches = batches
        self._conveyor = conveyor
        self._part_timeout_s = part_timeout_s
        self._interval_s = interval_s
        self._fire = fire
        self._announces = announces
        self._sequence = 0
        self._in_step = True
        self._judge = Judge(deadline_ms)
        self._now_s = 0.0
        self._out = [0] * len(COMMAND_REGISTERS)
        self._prepared = Recipe()
        self._attempts = 0
        self._steps = self._schedule()

    @property
    def counts(self) -> Counts:
        """What was seen of the station so far."""
        return self._judge.counts

    def scan(self, words: Sequence[int], now_s: float) -> list[int]:
        """One cycle: reads the 24 station registers as they stand at `now_s` and returns the 14 of the command block."""
        self._now_s = now_s
        self._judge.see(words, now_s)
        if not self.finished:
            try:
                next(self._steps)
            except StopIteration:
                self.finished = True
        self._out[0] = (self._out[0] + 1) % 0x10000
        self._out[4] = self._judge.acknowledge
        return list(self._out)

    def _schedule(self) -> Steps:
        try:
            yield from self._until_usable()
            self._judge.meet()
            # Going on from the station's own numbers, nothing new looks like something it has already done.
            self._out[3] = self._judge.station.command_echo
            self._sequence = self._judge.station.sequence
            self._out[5] = self._sequence if self._announces else 0
            for number in range(len(self._batches)):
                yield from self._produce(number)
            yield from self._command(STOP)
            yield from self._until_state(READY)
        except (_LossError, _GivenUpError) as reason:
            self.counts.violation(f"gave up: {reason}")

    def _produce(self, number: int) -> Steps:
        """One batch, from the change to its recipe to its last part, through every loss that it recovers from."""
        prepared = False
        left = self._batches[number].parts
        while left:
            try:
                if not prepared:
                    yield from self._change_to(number)
                    prepared = True
                if not self._judge.running:
                    station = self._judge.station
                    raise _LossError(f"ContinuousExecution ended in state {station.state} with error {station.error_code}")
                left -= 1
                yield from self._part(number)
                if not self._in_step:
                    yield from self._begin_anew()
                    prepared = False
            except _LossError as loss:
                prepared = False
                yield from self._recover(loss)

    def _begin_anew(self) -> Steps:
        """Where nobody writes the count, a part without an answer may have shifted it: both begin again at 1."""
        yield from self._command(STOP)
        yield from self._until_state(READY)

    def _recover(self, loss: _LossError) -> Steps:
        self._attempts += 1
        if self._attempts > MOST_ATTEMPTS:
            raise _GivenUpError(f"{loss}, the last of {self._attempts} losses without an answered part in between")
        self.counts.recoveries += 1
        yield from self._wait(RETRY_PAUSE_S)
        yield from self._until_usable()

    def _change_to(self, number: int) -> Steps:
        """Prepares the batch's recipe, without a stop if the line runs, and starts the line if it does not."""
        batch = self._batches[number]
        change = self._prepare(batch.recipe)
        if batch.keep_running and number and self._judge.running:
            change = self._while_feeding(change, number - 1)
        yield from change
        if not self._judge.running:
            if not self._announces:
                self._sequence, self._in_step = 0, True
            yield from self._command(START_CONTINUOUS)
            yield from self._until_state(CONTINUOUS)

    def _while_feeding(self, change: Steps, number: int) -> Steps:
        """Feeds parts of batch `number` until `change` is through, and lets the last of them end."""
        part = self._part(number)
        loss: _LossError | None = None
        changing = True
        while True:
            try:
                if changing:
                    next(change)
            except StopIteration:
                changing = False
            except _LossError as error:
                changing, loss = False, error
            try:
                next(part)
            except StopIteration:
                if not changing:
                    break
                part = self._part(number)
            yield
        if loss:
            raise loss

    def _prepare(self, recipe: int) -> Steps:
        self._judge.asked = recipe
        yield from self._command(PREPARE_RECIPE, recipe)
        yield from self._until_state(READY, CONTINUOUS, recipe=recipe)
        self._prepared = Recipe(recipe, self._judge.station.checksum)

    def _command(self, code: int, argument: int = 0) -> Steps:
        """Code with a new sequence, echo, done, code back to 0.

        Raises:
            _LossError: it failed, or was not done in time, or the station fell silent.
        """
        sequence = _after(self._out[3])
        self._out[1:4] = code, argument, sequence
        name = f"{COMMANDS[code]}({argument or ''})"
        until_s = self._now_s + COMMAND_TIMEOUT_S
        yield
        while self._judge.station.command_echo != sequence or self._judge.station.command_status not in (DONE, FAILED):
            self._check_time(until_s, name)
            yield
        failed, error = self._judge.station.command_status == FAILED, self._judge.station.error_code
        self._out[1:3] = 0, 0
        yield from self._until_released(name)
        if failed:
            raise _LossError(f"{name} failed with error {error}")

    def _until_released(self, name: str) -> Steps:
        """Holds code 0 until the station says idle, or has written twice more and so has read it in between."""
        until_s = self._now_s + STATE_TIMEOUT_S
        seen = {self._judge.station.heartbeat}
        while self._judge.station.command_status != IDLE and len(seen) < 3:
            self._check_time(until_s, f"{name} taken back")
            yield
            seen.add(self._judge.station.heartbeat)

    def _until_usable(self) -> Steps:
        until_s = self._now_s + RETURN_TIMEOUT_S
        while not self._judge.usable:
            if self._now_s > until_s:
                station = self._judge.station
                seen = f"heartbeat {'moving' if self._judge.alive else 'still'}, state {station.state}, error {station.error_code}"
                raise _GivenUpError(f"no usable station for {RETURN_TIMEOUT_S:.0f} s: {seen}")
            yield

    def _until_state(self, *states: int, recipe: int | None = None) -> Steps:
        until_s = self._now_s + STATE_TIMEOUT_S
        while self._judge.station.state not in states or recipe not in (None, self._judge.station.recipe):
            self._check_time(until_s, f"state {' or '.join(map(str, states))}")
            yield

    def _check_time(self, until_s: float, what: str) -> None:
        if not self._judge.alive:
            raise _LossError(f"the heartbeat stands still before {what}")
        if self._now_s > until_s:
            raise _LossError(f"{what} did not come in time")

    def _wait(self, seconds: float) -> Steps:
        until_s = self._now_s + seconds
        while self._now_s < until_s:
            yield

    def _part(self, number: int) -> Steps:
        """One part: shown, triggered, judged, sorted. Never raises, so that every part ends in a bin."""
        while (part_id := self._conveyor.present(number)) is None:
            yield
        expected = self._prepared
        yield  # showing a picture takes time; the part's begins with the next scan
        self._trigger(part_id, expected)
        began_s = self._now_s
        good: bool | None = None
        while good is None:
            yield
            if self._now_s - began_s > self._part_timeout_s:
                self._judge.time_out()
                self._in_step = self._announces
                good = False
            elif (good := self._judge.verdict()) is not None:
                self.counts.latencies_s.append(self._now_s - began_s)
                self._attempts = 0
        self._conveyor.sort(part_id, good)
        yield from self._wait(self._interval_s)

    def _trigger(self, part_id: str, expected: Recipe) -> None:
        self._sequence = _after(self._sequence)
        if self._fire:
            self._fire()
        if self._announces:
            characters = part_id.encode("ascii").ljust(16, b"\0")
            self._out[5:] = [self._sequence, *(int.from_bytes(characters[at : at + 2], "big") for at in range(0, 16, 2))]
        self._judge.trigger(self._sequence, expected)


def _after(sequence: int) -> int:
    return sequence % LAST_SEQUENCE + 1
