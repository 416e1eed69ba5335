"""The line that judges with the ASCII dialect on its wire: what a PLC says in lines, and what it hears back, turn by turn."""

import functools
import operator
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_line import Bench, Clock, ScriptedPlc

from drivers.ascii_conversation import Conversation
from drivers.plc import PlcInput, StationSignals
from station.state import State


def line(body: str) -> bytes:
    return b"%b*%02X\r" % (body.encode(), functools.reduce(operator.xor, body.encode(), 0))


class WiredPlc(ScriptedPlc):
    """The PLC of `test_line`, but what it says and hears are lines; sends `bodies` in the next turn."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.bodies: list[str] = []
        self.lines: list[str] = []
        self._clock = clock
        self._conversation = Conversation(acknowledge_s=0.1)

    def exchange(self, signals: StationSignals) -> PlcInput:
        self.heartbeat += 1
        self.heard.append(signals)
        said, self.bodies = [f"HBT,{self.heartbeat}", *self.bodies], []
        self._conversation.hear(b"".join(map(line, said)), signals)
        self._conversation.tell(signals, self._clock() / 1e9)
        sent = [each.partition(b"*")[0].decode() for each in bytes(self._conversation.out).split(b"\r")[:-1]]
        self._conversation.out.clear()
        self.lines += [each for each in sent if not each.startswith("HBT")]
        self.bodies = [f"TAK,{each[4:9]}" for each in sent if each.startswith("RES") and self.acknowledges]
        heard = self._conversation.said(drained=True)
        assert heard is not None
        return heard


class WiredBench:
    """The bench of `test_line`, its PLC at the far end of the lines."""

    def __init__(self, folder: Path) -> None:
        clock = Clock()
        self.plc = WiredPlc(clock)
        self.bench = Bench(folder, clock=clock, plc=self.plc)

    def say(self, *bodies: str, turns: int = 6) -> list[str]:
        """Sends these lines and returns what the station said in the turns after."""
        self.plc.lines.clear()
        self.plc.bodies += bodies
        self.bench.turn(turns)
        return list(self.plc.lines)

    def run(self) -> None:
        self.say()
        assert self.say("RCP,1,1")[-1].startswith("DON,RCP,1,1,")
        assert self.say("RUN,2")[-1].startswith("DON,RUN,2,1,")


@pytest.fixture
def wired(tmp_path: Path) -> Iterator[WiredBench]:
    made = WiredBench(tmp_path)
    made.run()
    yield made
    made.bench.line.close()


def test_a_part_is_inspected_once_and_answered_as_often_as_it_is_asked_for(wired: WiredBench) -> None:
    checksum = f"{wired.bench.inspectors[1].recipe.checksum:04X}"
    (answer,) = wired.say("TRG,00042,A1")
    assert answer.startswith("RES,00042,P,1,0,09900,0,1," + checksum)
    assert wired.say("TRG,00042,A1") == [answer]
    assert wired.say("TRG,00042,B9") == ["NAK,ARG"]
    assert wired.say("TRG,00043,A2")[0].startswith("RES,00043,P")
    assert wired.say("TRG,00042,A1") == [answer]
    assert wired.say("TRG,00042,A1") == [answer]
    assert wired.say("TRG,00042,B9") == ["NAK,ARG"]
    assert wired.bench.camera.fired == 2
    audit = wired.bench.audit()
    assert (audit.parts, audit.acknowledged, audit.ok) == (2, 2, True)


def test_a_trigger_that_was_overtaken_is_missed_and_not_shown_the_next_part(wired: WiredBench) -> None:
    wired.say("TRG,1")
    answers = wired.say("TRG,2", "TRG,3", turns=10)
    assert [answer[:13] for answer in answers] == ["RES,00002,F,5", "RES,00003,P,1"]
    assert wired.bench.camera.fired == 2


def test_a_result_that_nobody_takes_is_sent_four_times_and_then_it_is_an_error(wired: WiredBench) -> None:
    wired.plc.acknowledges = False
    wired.plc.lines.clear()
    wired.plc.bodies.append("TRG,1")
    wired.bench.turn(300, milliseconds=1)
    assert wired.bench.line.state is State.CONTINUOUS_EXECUTION
    wired.bench.turn(99, milliseconds=1)
    assert len(wired.plc.lines) == 4
    wired.bench.turn(10, milliseconds=1)
    assert wired.bench.line.state is State.ERROR
    wired.plc.bodies.append("TAK,1")
    wired.bench.turn(4)
    assert wired.bench.line.state is State.READY


def test_an_answer_that_was_taken_and_is_asked_for_again_is_told_four_times_at_most(wired: WiredBench) -> None:
    (answer,) = wired.say("TRG,1")
    wired.plc.acknowledges = False
    assert wired.say("TRG,1", turns=200) == [answer] * 4
    assert wired.bench.line.state is State.CONTINUOUS_EXECUTION
    assert wired.bench.audit().ok


def test_every_command_has_its_end(wired: WiredBench) -> None:
    assert wired.say("RCP,77,3") == ["ACK,RCP,3", "ERR,RCP,3,21"]
    assert wired.say("RUN,4") == ["ACK,RUN,4", "ERR,RUN,4,20"]
    assert [each[:9] for each in wired.say("STP,5", "UNP,6", turns=10)] == ["ACK,STP,5", "ACK,UNP,6", "DON,STP,5", "DON,UNP,6"]
    assert wired.say("HLT,7")[0] == "ACK,HLT,7"
    assert wired.bench.line.state is State.HALTED
    assert wired.say("RST,8")[0] == "ACK,RST,8"


def test_a_new_numbering_while_the_line_runs_is_an_error_and_while_it_stands_is_none(wired: WiredBench) -> None:
    wired.say("TRG,1")
    wired.say("TRG,00000")
    assert wired.say("STS")[0].split(",")[:3] == ["STS", "3", "5"]
    wired.say("RST,3")
    wired.say("TRG,00000")
    wired.say("RCP,1,4")
    wired.say("RUN,5")
    assert wired.say("TRG,1")[0].startswith("RES,00001,P")


@pytest.mark.parametrize("seed", range(3))
def test_noise_between_the_lines_passes_no_part_and_moves_no_state(wired: WiredBench, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(300):
        wired.plc._conversation.hear(chance.randbytes(chance.randrange(60)) + b"\r", wired.plc.last)
        assert wired.bench.turn(1, milliseconds=1) == []
    assert wired.bench.line.state is State.CONTINUOUS_EXECUTION
    assert wired.say("TRG,1")[-1].startswith("RES,00001,P")
