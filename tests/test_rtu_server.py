"""The simulated PLC's serial server, which judges the station's client: its telegrams are checked against the specification's own."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.simulated.rtu_server import GAP_S, RtuServer, crc


def telegram(body: bytes) -> bytes:
    return body + crc(body).to_bytes(2, "little")


def server(**wire: int) -> RtuServer:
    return RtuServer(list(range(100, 146)), writable=range(24), **wire)


READ_TWO = telegram(b"\x01\x03\x00\x20\x00\x02")
TWO = telegram(b"\x01\x03\x04" + struct.pack(">HH", 132, 133))


def test_the_checksum_is_the_published_one() -> None:
    assert crc(b"123456789") == 0x4B37
    assert bytes.fromhex("010300200002c5c1") == READ_TWO


def test_registers_are_read_and_written() -> None:
    plc = server()
    assert plc.receive(READ_TWO, 1.0) == TWO
    assert plc.receive(telegram(b"\x01\x06\x00\x05\x12\x34"), 2.0) == telegram(b"\x01\x06\x00\x05\x12\x34")
    assert plc.registers[5] == 0x1234
    assert plc.receive(telegram(b"\x01\x10\x00\x00\x00\x02\x04\x00\x07\x00\x08"), 3.0) == telegram(b"\x01\x10\x00\x00\x00\x02")
    assert plc.registers[:3] == [7, 8, 102]
    both = telegram(b"\x01\x17\x00\x00\x00\x02\x00\x01\x00\x01\x02\x00\x09")
    assert plc.receive(both, 4.0) == telegram(b"\x01\x17\x04\x00\x07\x00\x09")


@pytest.mark.parametrize(
    ("request_body", "code"),
    [
        (b"\x01\x04\x00\x00\x00\x01", 1),
        (b"\x01\x2b\x0e\x01\x00", 1),
        (b"\x01\x03\x00\x2d\x00\x02", 2),
        (b"\x01\x06\x00\x20\x00\x01", 2),
        (b"\x01\x10\x00\x17\x00\x02\x04\x00\x00\x00\x00", 2),
        (b"\x01\x17\x00\x00\x00\x01\x00\x20\x00\x01\x02\x00\x09", 2),
        (b"\x01\x17\x00\x2d\x00\x02\x00\x00\x00\x01\x02\x00\x09", 2),
        (b"\x01\x03\x00\x00\x00\x00", 3),
        (b"\x01\x03\x00\x00\x00\x7e", 3),
        (b"\x01\x10\x00\x00\x00\x02\x02\x00\x00", 3),
        (b"\x01\x10\x00\x00\x00\x00\x00", 3),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(request_body: bytes, code: int) -> None:
    plc = server()
    assert plc.receive(telegram(request_body), 1.0) == telegram(bytes([1, request_body[1] | 0x80, code]))
    assert plc.registers == list(range(100, 146))


def test_a_server_answers_for_its_unit_and_base_only() -> None:
    plc = server(unit=9, base=1000)
    assert plc.receive(READ_TWO, 1.0) == b""
    assert plc.receive(telegram(b"\x09\x03\x04\x08\x00\x01"), 2.0) == telegram(b"\x09\x03\x02\x00\x84")
    assert plc.receive(telegram(b"\x09\x03\x00\x20\x00\x01"), 3.0) == telegram(b"\x09\x83\x02")


def test_a_telegram_in_pieces_is_answered_once_it_is_whole() -> None:
    plc = server()
    answers = [plc.receive(READ_TWO[at : at + 1], 1.0 + at * GAP_S / 2) for at in range(len(READ_TWO))]
    assert answers == [b""] * (len(READ_TWO) - 1) + [TWO]


def test_a_broken_telegram_is_forgotten_after_a_silence() -> None:
    plc = server()
    assert plc.receive(READ_TWO[:-1] + b"\x00", 1.0) == b""
    assert plc.receive(READ_TWO, 1.0 + GAP_S / 2) == b""
    assert plc.receive(READ_TWO, 1.0 + 2 * GAP_S) == TWO


@given(bursts=st.lists(st.tuples(st.binary(max_size=300) | st.binary(max_size=40).map(telegram), st.floats(0, 3 * GAP_S))))
def test_no_bytes_at_all_keep_the_server_from_the_next_request(bursts: list[tuple[bytes, float]]) -> None:
    plc = server()
    now_s = 1.0
    for data, pause_s in bursts:
        plc.receive(data, now_s)
        now_s += pause_s
    assert plc.registers[24:] == list(range(124, 146))
    assert plc.receive(READ_TWO, now_s + 2 * GAP_S) == TWO
