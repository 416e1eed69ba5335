"""The ASCII dialect: its lines against the wire's page, what is said in which turn, the port, and any bytes at all."""

import contextlib
import functools
import operator
import os
import re
import threading
import time
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structured_text import Program, Ton

from drivers.ascii_codec import (
    LONGEST_LINE,
    Beat,
    LineBuffer,
    Ordered,
    Refused,
    StatusWanted,
    Taken,
    outcome_line,
    parse,
    result_line,
    status_line,
)
from drivers.ascii_conversation import Conversation
from drivers.ascii_line import AsciiLinePlc
from drivers.plc import NO_RESULT, CommandStatus, PlcCommand, PlcError, PlcInput, PlcResult, StationSignals, Trigger
from drivers.simulated.ascii_plc import AsciiPlc

BLOCKS = re.findall(r"```iecst\n(.*?)```", (Path(__file__).parent.parent / "docs" / "plc.md").read_text(), re.DOTALL)
MS = 1_000_000
TURN_S = 2.0
"""What a loaded machine may make of a turn that never waits."""
RESULT = PlcResult(
    sequence=42,
    passed=True,
    reason=1,
    class_index=0,
    probability=0.9981,
    defects=0,
    defect_area_px=700,
    largest_defect_px=(10, 20, 30, 40),
    elapsed_ms=87,
    recipe_number=12,
    recipe_checksum=0x9F3A,
)
IDLE = StationSignals(6, 123, 12, 0x9F3A, NO_RESULT, 0, CommandStatus.IDLE, 0, 0)
NOTHING_SAID = PlcInput(0, PlcCommand(0, 0, 0), 0, (Trigger(0),))
MET = replace(NOTHING_SAID, heartbeat=900)


def line(body: str | bytes) -> bytes:
    """A line as the wire's page has it, written without the driver."""
    body = body.encode("latin-1") if isinstance(body, str) else body
    return body + b"*%02X\r" % functools.reduce(operator.xor, body, 0)


# The lines.


def test_the_checksum_is_the_published_one() -> None:
    assert line("GPGLL,5057.970,N,00146.110,E,142451,A") == b"GPGLL,5057.970,N,00146.110,E,142451,A*27\r"
    assert parse(b"STS*54") == StatusWanted()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("RCP,12,1", Ordered("RCP", PlcCommand(1, 12, 1))),
        ("RCP,0,1", Ordered("RCP", PlcCommand(1, 0, 1))),
        ("UNP,6", Ordered("UNP", PlcCommand(2, 0, 6))),
        ("RUN,2", Ordered("RUN", PlcCommand(3, 0, 2))),
        ("STP,3", Ordered("STP", PlcCommand(4, 0, 3))),
        ("RST,4", Ordered("RST", PlcCommand(5, 0, 4))),
        ("HLT,65535", Ordered("HLT", PlcCommand(6, 0, 65535))),
        ("TRG,00042,A1234", Trigger(42, "A1234")),
        ("TRG,42", Trigger(42)),
        ("TRG,00042,", Trigger(42)),
        ("TRG,1,AZ 09-_./:()#@^]", Trigger(1, "AZ 09-_./:()#@^]"[:16])),
        ("TRG,00000", Trigger(0)),
        ("TAK,00042", Taken(42)),
        ("HBT,123", Beat(123)),
        ("STS", StatusWanted()),
        ("NAK,CHK", None),
    ],
)
def test_what_the_plc_says_is_the_table_of_the_wire(body: str, said: object) -> None:
    assert parse(line(body)[:-1]) == said


@pytest.mark.parametrize("body", ["", "XYZ", "sts", "Trg,1", "ACK,RCP,1", "RES,1", " STS", "STS ", "TRG\x00,1", "\xffSTS", "PASS"])
def test_a_line_that_is_no_command_is_refused_as_one(body: str) -> None:
    assert parse(line(body)[:-1]) == Refused("CMD")


@pytest.mark.parametrize(
    "body",
    [
        "STS,1",
        "TRG",
        "TRG,",
        "TRG,65536",
        "TRG,-1",
        "TRG,+1",
        "TRG, 1",
        "TRG,1.0",
        "TRG,000042",
        "TRG,4\xb2",
        "TRG,1,a1234",
        "TRG,1,A*B",
        "TRG,1,`",
        "TRG,1,A,B",
        "TRG,1,A\x00",
        "TRG,1,ABCDEFGHIJKLMNOPQ",
        "TAK,0",
        "TAK",
        "HBT",
        "HBT,65536",
        "RCP,12",
        "RCP,12,0",
        "RCP,65536,1",
        "RCP,12,1,1",
        "RUN",
        "RUN,0",
        "RUN,12,1",
    ],
)
def test_a_field_that_cannot_be_is_refused(body: str) -> None:
    assert parse(line(body)[:-1]) == Refused("ARG")


@pytest.mark.parametrize("sent", [b"STS", b"STS*55", b"STS*5", b"*", b"54", b"S*54", b"RST,4*4d", b"\x00" * 40])
def test_a_wrong_checksum_is_refused_whatever_it_says(sent: bytes) -> None:
    assert parse(sent) == Refused("CHK")


def test_a_line_that_is_too_long_is_refused_with_the_right_checksum_too() -> None:
    assert LONGEST_LINE == 64
    assert parse(line("X" * 61)[:-1]) == Refused("CMD")
    assert parse(line("X" * 62)[:-1]) == Refused("CHK")


def test_the_result_line_is_the_one_of_the_wire() -> None:
    assert result_line(RESULT) == line("RES,00042,P,1,0,09981,0,12,9F3A,0087")


@pytest.mark.parametrize("name", ["sequence", "reason", "recipe_number", "recipe_checksum"])
def test_what_names_something_in_a_result_is_refused_rather_than_clipped(name: str) -> None:
    with pytest.raises(ValueError, match="65536 does not fit the wire"):
        result_line(replace(RESULT, **{name: 65536}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["state", "recipe_number", "recipe_checksum"])
def test_what_names_something_in_a_status_is_refused_rather_than_clipped(name: str) -> None:
    with pytest.raises(ValueError, match="65536 does not fit the wire"):
        status_line(replace(IDLE, **{name: 65536}))  # type: ignore[arg-type]


@pytest.mark.parametrize("passed", [False, None, 1, np.True_, "yes", 0x5AA5])
def test_only_the_very_true_is_a_p(passed: object) -> None:
    assert result_line(replace(RESULT, passed=passed)).split(b",")[2] == b"F"


@pytest.mark.parametrize(("probability", "told"), [(float("nan"), 0), (-1.0, 0), (float("inf"), 10000), (2.0, 10000), (0.00004, 0)])
def test_a_probability_is_clipped_and_none_is_zero(probability: float, told: int) -> None:
    assert int(result_line(replace(RESULT, probability=probability)).split(b",")[5]) == told


@pytest.mark.parametrize("status", [status for status in CommandStatus if status is not CommandStatus.DONE])
def test_only_a_command_that_was_done_is_told_as_done(status: CommandStatus) -> None:
    ordered = Ordered("RUN", PlcCommand(3, 0, 2))
    assert outcome_line(ordered, replace(IDLE, command_status=status, error_code=70_000)) == line("ERR,RUN,2,65535")


def test_no_line_of_the_station_is_longer_than_a_line_may_be() -> None:
    widest = replace(RESULT, sequence=65535, reason=65535, class_index=10**9, probability=1.0, defects=10**9, recipe_number=65535)
    assert len(result_line(replace(widest, elapsed_ms=10**9))) == 56 < LONGEST_LINE


# The stream.

BODIES = st.sampled_from(["STS", "HBT,7", "TRG,00042,A1234", "TAK,00041", "RCP,12,1", "RUN,2", "sts", "TRG,1,a", "NAK,CHK"])
LINES = BODIES.map(line)
NOISE = st.binary(max_size=80) | st.sampled_from([b"\r", b"\n", b"\r\n", b"\x00", b"\xff\xff", b"*", b",", b"TRG,00042*", b"X" * 200])


@given(pieces=st.lists(LINES | NOISE, max_size=20), cuts=st.lists(st.integers(1, 40), max_size=60))
def test_a_stream_says_the_same_however_it_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    whole = [parse(each) for each in LineBuffer().feed(stream)]
    buffer, at, parts = LineBuffer(), 0, []
    for cut in [*cuts, len(stream)]:
        parts += [parse(each) for each in buffer.feed(stream[at : at + cut])]
        at += cut
    assert parts == whole


@given(body=BODIES, ends=st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\r"]), max_size=4))
def test_lf_and_empty_lines_are_nothing(body: str, ends: list[bytes]) -> None:
    noisy = b"".join(ends) + b"\n".join(bytes([byte]) for byte in line(body)) + b"".join(ends)
    assert [parse(each) for each in LineBuffer().feed(noisy)] == [parse(line(body)[:-1])]


def test_megabytes_without_cr_are_not_kept_and_are_one_refused_line() -> None:
    buffer = LineBuffer()
    for _ in range(2000):
        assert buffer.feed(b"A" * 1024) == []
    assert len(buffer._begun) == LONGEST_LINE + 1
    assert [parse(each) for each in buffer.feed(line("STS") + line("STS"))] == [Refused("CHK"), StatusWanted()]


@given(body=BODIES, bit=st.integers(0, 7), at=st.integers(0, 100))
def test_a_line_with_one_wrong_bit_is_never_taken(body: str, bit: int, at: int) -> None:
    sent = bytearray(line(body)[:-1])
    sent[at % len(sent)] ^= 1 << bit
    said = [parse(each) for each in LineBuffer().feed(bytes(sent) + b"\r")]
    assert set(said) <= {Refused("CHK")}


# The turns.


class Talk:
    """A conversation turned by hand: what the PLC sends goes in, whole lines come out."""

    def __init__(self) -> None:
        self.conversation = Conversation(acknowledge_s=0.1)
        self.signals = IDLE
        self.now_s = 50.0
        self.input: PlcInput | None = None

    def turn(self, *bodies: str, drained: bool = True, **changes: object) -> list[str]:
        """One exchange: hears these lines, returns those that are sent. `changes` are what the station says from now on."""
        self.now_s += 0.001
        self.signals = replace(self.signals, **changes)
        if bodies:
            self.conversation.hear(b"".join(map(line, bodies)), self.signals)
        self.conversation.tell(self.signals, self.now_s)
        sent = [each.partition(b"*")[0].decode() for each in bytes(self.conversation.out).split(b"\r")[:-1]]
        self.conversation.out.clear()
        self.input = self.conversation.said(drained)
        return sent

    @property
    def trigger(self) -> Trigger:
        assert self.input is not None
        (trigger,) = self.input.triggers
        return trigger

    @property
    def command(self) -> PlcCommand:
        assert self.input is not None
        return self.input.command


@pytest.fixture
def talk() -> Talk:
    met = Talk()
    met.turn("HBT,900")
    assert met.input == MET
    return met


def test_before_the_plc_says_anything_there_is_no_contact() -> None:
    talk = Talk()
    assert talk.turn() == []
    assert talk.input is None
    talk.conversation.hear(b"\xff\x00noise\r" + line("NAK,CHK") + line("XYZ"), IDLE)
    assert talk.turn() == ["NAK,CHK", "NAK,CMD"]
    assert talk.input is None


def test_in_the_turn_of_first_contact_nothing_new_stands_and_nothing_is_lost() -> None:
    talk = Talk()
    assert talk.turn("RCP,12,1", "TRG,00042,A1234") == ["ACK,RCP,1"]
    assert talk.input == NOTHING_SAID
    talk.turn()
    assert talk.input == PlcInput(0, PlcCommand(1, 12, 1), 0, (Trigger(42, "A1234"),))


def test_heartbeats_go_both_ways(talk: Talk) -> None:
    assert talk.turn("HBT,123", heartbeat=65536 + 77) == ["HBT,77"]
    assert talk.input == replace(NOTHING_SAID, heartbeat=123)


def test_the_status_is_the_one_of_the_wire(talk: Talk) -> None:
    signals = {"result": replace(RESULT, sequence=41), "error_code": 0}
    talk.turn(**signals)
    assert talk.turn("STS") == ["STS,6,0,12,9F3A,00041,HB123"]
    assert talk.turn("STS", heartbeat=65536 + 77, error_code=70_000) == ["STS,6,65535,12,9F3A,00041,HB77"]


def test_a_trigger_stands_until_the_next_one(talk: Talk) -> None:
    talk.turn("TRG,00042,A1234")
    assert talk.trigger == Trigger(42, "A1234")
    talk.turn("HBT,1")
    assert talk.trigger == Trigger(42, "A1234")
    talk.turn("TRG,43")
    assert talk.trigger == Trigger(43)


def test_of_several_triggers_in_a_turn_only_the_newest_is_not_too_late(talk: Talk) -> None:
    talk.turn("TRG,42", "TRG,43", "TRG,44")
    assert talk.trigger == Trigger(44)


def test_a_trigger_waits_until_it_is_known_to_be_the_newest(talk: Talk) -> None:
    talk.turn("TRG,42", drained=False)
    assert talk.trigger == Trigger(0)
    talk.turn("TRG,43", drained=True)
    assert talk.trigger == Trigger(43)


def test_a_result_is_sent_until_it_is_taken(talk: Talk) -> None:
    talk.turn("TRG,42,A")
    result = "RES,00042,P,1,0,09981,0,12,9F3A,0087"
    assert talk.turn(result=RESULT) == [result]
    times_s = []
    for _ in range(350):
        if talk.turn() == [result]:
            times_s.append(round(talk.now_s, 3))
    assert np.diff(times_s) == pytest.approx([0.1, 0.1], abs=0.002)
    assert talk.input is not None
    assert talk.input.acknowledged == 0
    talk.turn("TAK,00042")
    assert talk.input.acknowledged == 42
    talk.turn("TAK,00041")
    assert [talk.turn() for _ in range(300)] == [[]] * 300
    assert talk.input.acknowledged == 42


def test_a_result_is_not_sent_again_behind_its_own_copy(talk: Talk) -> None:
    talk.conversation.tell(replace(IDLE, result=RESULT), 60.0)
    talk.conversation.out.clear()
    talk.conversation.tell(replace(IDLE, result=RESULT), 61.0, unsent=512)
    assert talk.conversation.out == b""
    talk.conversation.tell(replace(IDLE, result=RESULT), 61.0, unsent=40)
    assert talk.conversation.out == result_line(RESULT)


def test_what_was_not_sent_cannot_be_taken(talk: Talk) -> None:
    talk.turn("TAK,00042", "TAK,00041", result=replace(RESULT, sequence=41))
    assert talk.input is not None
    assert talk.input.acknowledged == 0
    talk.turn("TAK,00042")
    assert talk.input.acknowledged == 0
    talk.turn("TAK,00041")
    assert talk.input.acknowledged == 41
    talk.turn(result=RESULT)
    assert talk.input.acknowledged == 0


def test_a_part_asked_for_again_is_answered_again(talk: Talk) -> None:
    talk.turn("TRG,42,A")
    first = talk.turn(result=RESULT)
    assert talk.turn("TAK,42") == []
    assert talk.turn("TRG,00042,A") == first
    assert talk.input is not None
    assert talk.input.acknowledged == 0
    talk.turn("TAK,42")
    assert talk.input.acknowledged == 42
    assert talk.trigger == Trigger(42, "A")


@pytest.mark.parametrize("again", ["TRG,42,B", "TRG,42"])
def test_an_answer_is_not_sent_again_for_another_part_with_its_number(talk: Talk, again: str) -> None:
    talk.turn("TRG,42,A")
    talk.turn(result=RESULT)
    talk.turn("TAK,42")
    assert talk.turn(again) == ["NAK,ARG"]
    talk.turn("TRG,5,C")  # refused by whoever counts, so the old result stands on
    assert talk.turn(again) == ["NAK,ARG"]
    assert talk.trigger == Trigger(5, "C")


def test_a_part_under_way_keeps_its_number(talk: Talk) -> None:
    talk.turn("TRG,42,A")
    assert talk.turn("TRG,42,B") == ["NAK,ARG"]
    assert talk.turn("TRG,43,A", "TRG,43,B") == ["NAK,ARG"]
    assert talk.trigger == Trigger(43, "A")


def test_a_new_numbering_is_shown_before_its_first_part_and_never_answered_from_the_old_one(talk: Talk) -> None:
    talk.turn("TRG,1")
    talk.turn(result=replace(RESULT, sequence=1))
    talk.turn("TAK,1")
    assert talk.turn("TRG,00000", "TRG,00001") == ["NAK,ARG"]
    assert talk.trigger == Trigger(0)
    assert talk.turn("TRG,00001", result=NO_RESULT) == []
    assert talk.trigger == Trigger(1)
    talk.turn("TRG,00000", "TRG,00002")
    assert talk.trigger == Trigger(0)
    talk.turn()
    assert talk.trigger == Trigger(2)


def test_a_part_that_was_not_shown_before_a_new_numbering_is_not_shown_in_it(talk: Talk) -> None:
    talk.turn("TRG,43", "TRG,00000")
    for _ in range(3):
        assert talk.trigger == Trigger(0)
        talk.turn()


def test_part_ids_of_an_old_numbering_bind_nobody(talk: Talk) -> None:
    talk.turn("TRG,42,A")
    assert talk.turn("TRG,00000", "TRG,42,B") == []
    talk.turn()
    assert talk.trigger == Trigger(42, "B")
    first = talk.turn(result=RESULT)
    assert talk.turn("TAK,42", "TRG,42,B") == first


def test_the_part_ids_that_are_remembered_are_so_many(talk: Talk) -> None:
    for sequence in range(1, 1001):
        talk.turn(f"TRG,{sequence},A")
    assert len(talk.conversation._part_ids) == 256


def test_the_same_answer_in_a_new_numbering_is_sent(talk: Talk) -> None:
    talk.turn("TRG,42")
    first = talk.turn(result=RESULT)
    talk.turn("TAK,42")
    talk.turn("TRG,0")
    talk.turn(result=NO_RESULT)
    talk.turn("TRG,42")
    assert talk.turn(result=RESULT) == first


def test_a_command_is_acknowledged_at_once_and_ends_once(talk: Talk) -> None:
    assert talk.turn("RCP,12,1") == ["ACK,RCP,1"]
    assert talk.command == PlcCommand(1, 12, 1)
    assert talk.turn(command_echo=1, command_status=CommandStatus.EXECUTING) == []
    assert talk.command == PlcCommand(1, 12, 1)
    assert talk.turn(command_status=CommandStatus.DONE) == ["DON,RCP,1,12,9F3A"]
    assert talk.command == PlcCommand(0, 0, 1)
    assert talk.turn(command_status=CommandStatus.IDLE) == []


def test_a_command_that_fails_says_why(talk: Talk) -> None:
    talk.turn("RUN,7")
    assert talk.turn(command_echo=7, command_status=CommandStatus.FAILED, error_code=20) == ["ERR,RUN,7,20"]


def test_the_end_of_another_command_is_not_this_ones(talk: Talk) -> None:
    talk.turn("RUN,7", command_echo=6, command_status=CommandStatus.DONE)
    assert talk.turn() == []
    assert talk.turn(command_echo=7, command_status=CommandStatus.EXECUTING) == []


def test_a_repeated_command_is_answered_again_and_not_executed_again(talk: Talk) -> None:
    talk.turn("RCP,12,1")
    assert talk.turn("RCP,12,1") == ["ACK,RCP,1"]
    talk.turn(command_echo=1, command_status=CommandStatus.DONE)
    assert talk.turn("RCP,12,1", recipe_number=13) == ["ACK,RCP,1", "DON,RCP,1,12,9F3A"]
    assert talk.command == PlcCommand(0, 0, 1)
    talk.turn("RUN,2")
    assert talk.turn("RUN,2") == ["ACK,RUN,2"]


def test_another_command_with_the_same_sequence_is_refused(talk: Talk) -> None:
    talk.turn("RCP,12,1")
    assert talk.turn("RCP,13,1", "RUN,1") == ["NAK,ARG", "NAK,ARG"]
    assert talk.command == PlcCommand(1, 12, 1)


def test_several_commands_are_shown_one_a_turn_and_each_has_an_end(talk: Talk) -> None:
    assert talk.turn("STP,1", "RCP,13,2") == ["ACK,STP,1", "ACK,RCP,2"]
    assert talk.command == PlcCommand(4, 0, 1)
    assert talk.turn(command_echo=1, command_status=CommandStatus.DONE) == ["DON,STP,1,12,9F3A"]
    assert talk.command == PlcCommand(1, 13, 2)
    talk.turn("RUN,3", command_echo=2, command_status=CommandStatus.EXECUTING)
    assert talk.command == PlcCommand(3, 0, 3)
    assert talk.turn() == ["ERR,RCP,2,23"]


def test_a_command_that_waits_is_known_too(talk: Talk) -> None:
    talk.turn("STP,1")
    talk.turn(command_echo=1, command_status=CommandStatus.DONE)
    assert talk.turn("RUN,2", "RCP,13,3", "RCP,13,3", "RCP,14,3") == ["ACK,RUN,2", "ACK,RCP,3", "ACK,RCP,3", "NAK,ARG"]


def test_more_commands_than_are_kept_are_refused(talk: Talk) -> None:
    sent = talk.turn(*(f"RUN,{sequence}" for sequence in range(1, 11)))
    assert sent == [f"ACK,RUN,{sequence}" for sequence in range(1, 9)] + ["NAK,BSY"] * 2


def test_a_line_that_cannot_be_taken_is_answered_and_changes_nothing(talk: Talk) -> None:
    before = vars(talk.conversation) | {"_lines": None, "out": None}
    talk.conversation.hear(b"TRG,00042*00\r" + line("TRG,x") + line("trg,42") + line("NAK,CHK"), IDLE)
    assert vars(talk.conversation) | {"_lines": None, "out": None} == before
    assert talk.turn() == ["NAK,CHK", "NAK,ARG", "NAK,CMD"]


def test_after_a_cut_only_what_was_not_taken_is_sent_again(talk: Talk) -> None:
    talk.turn("TRG,42")
    first = talk.turn(result=RESULT)
    talk.turn("RUN,1", "RUN,2", "TRG,43", drained=False)
    talk.conversation.cut()
    assert talk.turn() == first
    assert talk.input is None
    talk.turn("TAK,42")
    talk.turn()
    assert (talk.trigger, talk.command) == (Trigger(42), PlcCommand(3, 0, 1))
    talk.conversation.out += b"half a li"
    talk.conversation.cut()
    assert talk.turn("HBT,5", "TRG,43") == ["HBT,123"]
    assert talk.trigger == Trigger(42)
    talk.turn()
    assert talk.trigger == Trigger(43)


def test_a_trigger_0_that_was_cut_off_before_it_was_shown_is_forgotten(talk: Talk) -> None:
    talk.turn("TRG,42")
    talk.conversation.hear(line("TRG,00000"), talk.signals)
    talk.conversation.cut()
    talk.turn("HBT,5")
    talk.turn()
    assert talk.trigger == Trigger(42)


def test_another_result_under_the_same_number_is_sent_and_must_be_taken_anew(talk: Talk) -> None:
    talk.turn("TRG,42")
    talk.turn(result=RESULT)
    talk.turn("TAK,42")
    assert talk.turn(result=replace(RESULT, passed=False)) == ["RES,00042,F,1,0,09981,0,12,9F3A,0087"]
    assert talk.input is not None
    assert talk.input.acknowledged == 0


def test_a_question_is_not_answered_behind_a_queue_that_has_not_left(talk: Talk) -> None:
    talk.conversation.hear(line("STS"), IDLE, unsent=512)
    assert talk.conversation.out == b""
    talk.conversation.hear(line("STS"), IDLE, unsent=511)
    assert talk.conversation.out == line("STS,6,0,12,9F3A,00000,HB123")


def test_a_storm_of_questions_does_not_grow_what_waits_and_leaves_room_for_the_result(talk: Talk) -> None:
    for sequence in range(1, 201):
        talk.conversation.hear(line(f"RUN,{sequence}") + line("STS") * 100 + line("XYZ") * 50 + line("TRG,42"), IDLE)
        talk.conversation.tell(replace(IDLE, result=RESULT), talk.now_s)
        talk.conversation.said(drained=True)
        assert len(talk.conversation.out) < 1024 + 64
    assert line("RES,00042,P,1,0,09981,0,12,9F3A,0087") in bytes(talk.conversation.out)


@settings(max_examples=200)
@given(turns=st.lists(st.tuples(st.lists(NOISE | LINES.map(lambda each: each[:-1]), max_size=6).map(b"".join), st.booleans())))
def test_bytes_that_are_no_line_of_the_wire_move_nothing(turns: list[tuple[bytes, bool]]) -> None:
    talk = Talk()
    talk.turn("HBT,900")
    for data, drained in turns:
        lines = LineBuffer().feed(data + b"\r")
        if any(not isinstance(parse(each), Refused) for each in lines):
            continue
        talk.conversation.hear(data + b"\r", IDLE)
        talk.conversation.tell(IDLE, talk.now_s)
        assert talk.conversation.said(drained) == MET
        sent = bytes(talk.conversation.out).split(b"\r")[:-1]
        assert all(each.startswith(b"NAK,") for each in sent)
        assert len(sent) == len(lines) or len(talk.conversation.out) >= 512
        talk.conversation.out.clear()


@settings(max_examples=200)
@given(turns=st.lists(st.lists(NOISE | LINES, max_size=8).map(b"".join), max_size=12))
def test_any_bytes_at_all_keep_every_promise_of_the_input(turns: list[bytes]) -> None:
    talk = Talk()
    for data in turns:
        talk.conversation.hear(data, IDLE)
        talk.conversation.tell(IDLE, talk.now_s)
        said = talk.conversation.said(drained=True)
        assert len(talk.conversation.out) < 1024 + 64
        if said is None:
            continue
        assert said.acknowledged == 0
        assert said.heartbeat in (0, 7)
        assert said.command in (PlcCommand(0, 0, 0), PlcCommand(1, 12, 1), PlcCommand(3, 0, 2))
        assert said.triggers in ((Trigger(0),), (Trigger(42, "A1234"),))


# The port.


class Clock:
    """A clock that only moves when a test says so."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * MS

    def __call__(self) -> float:
        return self.now_ns / 1e9


class Cable:
    """A pseudo terminal whose far end is the test's: nothing is answered unless the test does."""

    def __init__(self, port: Path) -> None:
        self.port = port
        self.plug()

    def plug(self) -> None:
        self._near, self._far = os.openpty()
        tty.setraw(self._far)
        os.set_blocking(self._near, False)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(self._far))

    def pull(self) -> None:
        self.port.unlink()
        os.close(self._near)
        os.close(self._far)

    def send(self, data: bytes) -> int:
        try:
            return os.write(self._near, data)
        except BlockingIOError:
            return 0

    def received(self) -> bytes:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._near, 65536):
                data += more
        return data

    def receives(self, expected: bytes) -> bool:
        """True when exactly these bytes come; the kernel carries them in its own time."""
        data, until_s = b"", time.monotonic() + 5
        while len(data) < len(expected) and time.monotonic() < until_s:
            data += self.received()
        return data == expected


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    made = Cable(tmp_path / "plc")
    yield made
    if made.port.is_symlink():
        made.pull()


@pytest.fixture
def now() -> Clock:
    return Clock()


@pytest.fixture
def plc(cable: Cable, now: Clock) -> Iterator[AsciiLinePlc]:
    link = AsciiLinePlc(str(cable.port), clock=now)
    yield link
    link.close()


def exchange(plc: AsciiLinePlc, signals: StationSignals = IDLE) -> PlcInput | None:
    """One exchange, in time; None when it failed."""
    began_s = time.monotonic()
    try:
        return plc.exchange(signals)
    except PlcError:
        return None
    finally:
        assert time.monotonic() - began_s < TURN_S


def hears(plc: AsciiLinePlc, said: PlcInput) -> bool:
    """True when an exchange says that in the end, and none fails after one went well."""
    until_s = time.monotonic() + 5
    heard = None
    while heard != said and time.monotonic() < until_s:
        before, heard = heard, exchange(plc)
        assert before is None or heard is not None
    return heard == said


def meet(plc: AsciiLinePlc, cable: Cable) -> None:
    """Opens the port and makes contact."""
    exchange(plc)
    cable.send(line("HBT,900"))
    assert hears(plc, MET)
    assert cable.receives(line("HBT,123"))


def test_a_plc_that_says_nothing_is_an_error_without_waiting(plc: AsciiLinePlc, cable: Cable) -> None:
    for _ in range(3):
        with pytest.raises(PlcError, match="has not said anything that makes sense yet; check wiring"):
            plc.exchange(IDLE)
    cable.send(line("STS"))
    assert hears(plc, NOTHING_SAID)
    assert cable.receives(line("STS,6,0,12,9F3A,00000,HB123"))


def test_a_turn_may_wait_for_the_plc_and_ends_when_it_speaks(cable: Cable) -> None:
    plc = AsciiLinePlc(str(cable.port), turn_s=0.03)
    meet(plc, cable)
    began_s = time.monotonic()
    plc.exchange(IDLE)
    assert time.monotonic() - began_s >= 0.03
    cable.send(line("TRG,42"))
    assert hears(plc, replace(MET, triggers=(Trigger(42),)))
    plc.close()


def test_signals_that_do_not_fit_are_refused_before_anything_is_sent(plc: AsciiLinePlc, cable: Cable) -> None:
    meet(plc, cable)
    for wrong in (replace(IDLE, recipe_number=65536), replace(IDLE, result=replace(RESULT, sequence=-1))):
        cable.send(line("STS"))
        with pytest.raises(ValueError, match="does not fit the wire"):
            plc.exchange(wrong)
        assert cable.received() == b""


def test_signals_that_do_not_fit_are_refused_though_the_plc_asks_for_nothing(plc: AsciiLinePlc, cable: Cable) -> None:
    meet(plc, cable)
    with pytest.raises(ValueError, match="state 70000 does not fit the wire"):
        plc.exchange(replace(IDLE, state=70000))


def fill(plc: AsciiLinePlc, cable: Cable, now: Clock) -> str:
    """Asks and takes no answer until that is an error, a millisecond a turn; the error's words."""
    until_ns = now.now_ns + 60_000 * MS
    while now.now_ns < until_ns:
        cable.send(line("STS") * 20)
        now.now_ns += MS
        try:
            plc.exchange(IDLE)
        except PlcError as error:
            return str(error)
        assert len(plc._conversation.out) < 1024 + 64
    return ""


def test_a_plc_that_takes_nothing_is_an_error_and_memory_does_not_grow(plc: AsciiLinePlc, cable: Cable, now: Clock) -> None:
    meet(plc, cable)
    assert "it accepted nothing for 150 ms" in fill(plc, cable, now)
    cable.received()
    now.now_ns += 1000 * MS
    exchange(plc)
    cable.received()
    meet(plc, cable)


def block(plc: AsciiLinePlc, cable: Cable) -> None:
    """Asks and takes no answer until the port accepts nothing; by the test's clock no time passes."""
    turns = 0
    while turns < 3:
        cable.send(line("STS") * 20)
        before = len(plc._conversation.out)
        assert exchange(plc) is not None
        turns = turns + 1 if len(plc._conversation.out) >= max(before, 512) else 0


def test_a_plc_that_takes_something_now_and_then_is_none(plc: AsciiLinePlc, cable: Cable, now: Clock) -> None:
    meet(plc, cable)
    for _ in range(3):
        block(plc, cable)
        now.now_ns += 100 * MS
        assert exchange(plc) is not None
        until_s = time.monotonic() + 5
        while plc._conversation.out:
            cable.received()
            assert exchange(plc) is not None
            assert time.monotonic() < until_s


def test_closing_a_port_that_is_full_says_preoperational_all_the_same(plc: AsciiLinePlc, cable: Cable) -> None:
    meet(plc, cable)
    block(plc, cable)
    plc.close()
    received, until_s = b"", time.monotonic() + 5
    while not received.endswith(line("STS,1,0,0,0000,00000,HB123")):
        received += cable.received()
        assert time.monotonic() < until_s


def test_a_turn_in_which_something_came_does_not_wait(cable: Cable) -> None:
    plc = AsciiLinePlc(str(cable.port), turn_s=0.01)
    meet(plc, cable)
    plc._turn_s = 100 * TURN_S
    cable.send(line("HBT,1"))
    wait_for(plc, len(line("HBT,1")))
    assert exchange(plc) == replace(MET, heartbeat=1)
    plc.close()


def wait_for(plc: AsciiLinePlc, count: int) -> None:
    """Waits until so many bytes stand in the port."""
    until_s = time.monotonic() + 5
    while plc._port._opened().in_waiting < count:
        assert time.monotonic() < until_s


def test_a_trigger_in_a_long_queue_waits_until_the_queue_was_read(plc: AsciiLinePlc, cable: Cable) -> None:
    meet(plc, cable)
    queue = line("TRG,42") + b"\n" * 2500 + line("TRG,43")
    cable.send(queue)
    wait_for(plc, len(queue))
    assert exchange(plc) == MET
    assert exchange(plc) == replace(MET, triggers=(Trigger(43),))


def test_a_station_that_comes_back_finds_the_line_again(cable: Cable) -> None:
    for _ in range(3):
        plc = AsciiLinePlc(str(cable.port), parity="E")
        meet(plc, cable)
        plc.close()
        assert cable.receives(line("STS,1,0,0,0000,00000,HB123"))


def test_after_a_cut_the_line_begins_anew(plc: AsciiLinePlc, cable: Cable, now: Clock) -> None:
    meet(plc, cable)
    cable.send(line("TRG,42")[:5])
    wait_for(plc, 5)
    assert exchange(plc) == MET
    cable.pull()
    assert exchange(plc) is None
    cable.plug()
    now.now_ns += 1000 * MS
    assert exchange(plc) is None
    cable.send(line("TRG,42")[5:] + line("NAK,CHK"))
    wait_for(plc, 1)
    assert exchange(plc) is None
    cable.send(line("HBT,900"))
    assert hears(plc, MET)


def test_a_pulled_cable_is_an_error_and_its_return_is_found(plc: AsciiLinePlc, cable: Cable, now: Clock) -> None:
    meet(plc, cable)
    cable.pull()
    with pytest.raises(PlcError, match=r"was lost \(.*\); check adapter and cable"):
        plc.exchange(IDLE)
    now.now_ns += 1000 * MS
    with pytest.raises(PlcError, match="cannot be opened"):
        plc.exchange(IDLE)
    cable.plug()
    now.now_ns += 1000 * MS
    meet(plc, cable)


def test_a_turn_that_waits_ends_when_the_cable_is_pulled(cable: Cable) -> None:
    plc = AsciiLinePlc(str(cable.port), turn_s=10 * TURN_S)
    pulled = threading.Timer(0.05, cable.pull)
    pulled.start()
    assert exchange(plc) is None
    pulled.join()
    plc.close()


@settings(max_examples=25, deadline=None)
@given(stream=st.lists(st.binary(max_size=3000) | NOISE | LINES.map(lambda each: b"-" + each), max_size=10))
def test_no_bytes_through_a_port_crash_delay_or_move_anything(stream: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    cable = Cable(tmp_path_factory.mktemp("port") / "plc")
    plc = AsciiLinePlc(str(cable.port))
    try:
        meet(plc, cable)
        for data in stream:
            cable.send(data.replace(b"\r", b".") + b"\r")
            for _ in range(3):
                assert exchange(plc) == MET
            cable.received()
        cable.send(b"\r" + line("HBT,7"))
        assert hears(plc, replace(NOTHING_SAID, heartbeat=7))
    finally:
        plc.close()
        cable.pull()


def test_megabytes_of_noise_through_a_port_end_with_the_next_good_line(plc: AsciiLinePlc, cable: Cable) -> None:
    meet(plc, cable)
    noise, sent = b"\x00A\xff" * 1024, 0
    while sent < 3_000_000:
        sent += cable.send(noise)
        assert exchange(plc) == MET
        assert len(plc._conversation._lines._begun) <= LONGEST_LINE + 1
    left, until_s = b"\r" + line("HBT,7"), time.monotonic() + 5
    while exchange(plc) != replace(NOTHING_SAID, heartbeat=7):
        left = left[cable.send(left) :] if left else left
        assert time.monotonic() < until_s
    assert cable.receives(line("NAK,CHK") + line("HBT,123"))


def test_closing_says_preoperational_last_even_when_a_line_was_cut_in_two(plc: AsciiLinePlc, cable: Cable) -> None:
    meet(plc, cable)
    plc._conversation.out += b"RES,00042,P,1,0,0"
    plc.close()
    assert cable.receives(b"\r" + line("STS,1,0,0,0000,00000,HB123"))


# The manual's program.


def test_the_manual_s_program_says_what_changed_and_takes_what_the_station_says(talk: Talk) -> None:
    functions, says = (text for text in BLOCKS if "FUNCTION FC_Take" in text or "fbSend" in text)
    registers, sent, now_s = [0] * 46, [], 0.0
    program = Program(functions + says, registers, lambda: now_s)
    program.variables |= {"tonBeat": Ton(lambda: now_s), "fbSend": sent.append, "FC_Number": str}
    program.variables |= {"uiSaid37": 0, "uiSaid35": 0, "xResultCame": False}

    def scan(turns: int = 1, **changes: object) -> list[str]:
        """Scans of 10 ms, a turn of the station after each; the lines that the PLC sent."""
        nonlocal now_s
        said = []
        for _ in range(turns):
            now_s += 0.01
            program.scan()
            bodies = [each[:-4] for each in sent]
            assert sent == [line(body).decode() for body in bodies]
            sent.clear()
            said += bodies
            for body in talk.turn(*bodies, **changes):
                assert program.call("FC_Take", line(body)[:-1].decode())
                program.variables["xResultCame"] |= body.startswith("RES")
        return said

    registers[32] = 7
    assert scan(25) == ["HBT,7", "STS"]
    assert registers[:5] == [1, 6, 123, 12, 0x9F3A]
    registers[33:36] = [1, 12, 5]
    assert [body for body in scan(3) if body[0] == "R"] == ["RCP,12,5"]
    assert registers[19:21] == [5, 1]
    scan(command_echo=5, command_status=CommandStatus.DONE)
    assert registers[19:21] == [5, 2]
    registers[33] = 0
    scan()
    assert registers[20] == 0
    registers[37] = 42
    assert "TRG,42" in scan(2)
    scan(result=RESULT)
    assert registers[5:8] + registers[16:19] + registers[23:24] == [42, 0x5AA5, 1, 87, 12, 0x9F3A, 42]
    assert "TAK,42" in scan(2)
    assert talk.input is not None
    assert talk.input.acknowledged == 42
    assert "TAK,42" not in scan(5)
    for number, verb in enumerate(("UNP", "RUN", "STP", "RST", "HLT"), 2):
        registers[33:36] = [number, 0, 10 + number]
        assert f"{verb},{10 + number}" in scan(2)


# The simulated PLC.


def test_the_simulated_plc_says_what_its_registers_hold() -> None:
    plc = AsciiPlc([0] * 32 + [900, 1, 12, 5, 41, 42, 0x4131, 0x3233, 0x3400, 0, 0, 0, 0, 0])
    said = plc.receive(b"", 1.0)
    assert said == line("RCP,12,5") + line("TRG,00042,A1234") + line("TAK,00041") + line("HBT,900") + line("STS")
    assert plc.receive(b"", 1.05) == b""
    assert plc.receive(line("ACK,RCP,5"), 1.08) == b""
    assert plc.receive(b"", 1.2) == line("HBT,900") + line("STS")


def test_the_simulated_plc_says_a_command_again_that_was_not_acknowledged() -> None:
    plc = AsciiPlc([0] * 32 + [900, 3, 0, 5, *[0] * 10])
    assert line("RUN,5") in plc.receive(b"", 1.0)
    assert line("RUN,5") not in plc.receive(b"", 1.4)
    assert line("RUN,5") in plc.receive(b"", 1.6)
    plc.receive(line("DON,RUN,5,12,9F3A"), 1.7)
    assert line("RUN,5") not in plc.receive(b"", 9.0)


def test_the_simulated_plc_says_again_what_was_broken_on_its_way() -> None:
    plc = AsciiPlc([0] * 32 + [900, 3, 0, 5, 0, 42, *[0] * 8])
    plc.receive(b"", 1.0)
    assert plc.receive(line("NAK,CHK"), 1.01) == line("RUN,5") + line("TRG,00042")
    assert plc.receive(b"", 1.02) == b""
    assert plc.refusals == ["CHK"]


@pytest.mark.parametrize(
    "sent", [b"RES,00042,P,1,0,09981,0,12,9F3A,0087*00\r", line("RES,42,P,1,0,09981,0,12,9F3A,0087"), line("RES,00042,X"), b"\xff\x00*\r"]
)
def test_the_simulated_plc_takes_no_line_that_is_not_as_the_page_has_it(sent: bytes) -> None:
    plc = AsciiPlc([0] * 46)
    plc.receive(sent, 1.0)
    assert plc.registers == [0] * 46
    assert plc.broken == 1


def test_the_simulated_plc_takes_every_repetition_of_a_result() -> None:
    plc = AsciiPlc([0] * 46)
    result = line("RES,00042,P,1,3,09981,2,12,9F3A,0087")
    plc.receive(result, 1.0)
    assert plc.registers[5:24] == [42, 0x5AA5, 1, 3, 9981, 2, 0, 0, 0, 0, 0, 87, 12, 0x9F3A, 0, 0, 0, 0, 42]
    plc.registers[36] = 42
    assert plc.speak(1.01) == line("TAK,00042")
    assert plc.receive(b"", 1.02) == b""
    assert plc.receive(result, 1.03) == line("TAK,00042")
