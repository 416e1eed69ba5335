"""Faults of the cable and of the PLC at its far end."""

from collections.abc import Generator

from fault import PLC_COUNTS, Act, Fault, act, any_of, dead, done, error, failed, goes_on, refused, times_out
from plant import BULB, IRON, PREPARE, RESET, START, STOP, Plant, Steps
from wire import Times, cut_short, flip, lost, wrong_rate

from drivers.simulated.rtu_server import crc

_LINES = ("ascii",)
_REGISTERS = ("modbus-rtu", "modbus-rtu-server")
_POLLED = ("modbus-rtu",)
_WIRE = any_of(error(2, 3, 4), dead, times_out, failed("not running"))


def _cut(seconds: float) -> Act:
    """Nothing passes in either direction for so long; the line does not know when."""

    @act
    def happens(line: Plant) -> Generator[None]:
        line.wire.to_plc = line.wire.to_station = lost
        line.pause(seconds)
        line.wire.heal()
        yield

    return happens


@act
def _cut_mid_telegram(line: Plant) -> Generator[None]:
    line.wire.to_plc = Times(1, cut_short(line.chance), lost)
    line.wire.to_station = Times(1, cut_short(line.chance), lost)
    line.pause(1.2)
    line.wire.heal()
    yield


@act
def _torn_telegrams(line: Plant) -> Generator[None]:
    line.wire.to_plc = Times(3, cut_short(line.chance))
    line.wire.to_station = Times(3, cut_short(line.chance))
    yield


@act
def _flips_to_station(line: Plant) -> Generator[None]:
    line.wire.to_station = Times(3, flip(line.chance))
    yield


@act
def _flips_to_plc(line: Plant) -> Generator[None]:
    line.wire.to_plc = Times(3, flip(line.chance))
    yield


@act
def _noise(line: Plant) -> Generator[None]:
    for _ in range(20):
        line.wire.inject(line.chance.randbytes(line.chance.randrange(1, 200)))
        line.pause(0.01)
    yield


@act
def _noise_both_ways(line: Plant) -> Generator[None]:
    line.wire.to_station = line.wire.to_plc = lambda data: line.chance.randbytes(len(data))
    line.pause(0.3)
    line.wire.heal()
    yield


@act
def _wrong_rate(line: Plant) -> Generator[None]:
    line.wire.to_station = line.wire.to_plc = wrong_rate
    line.pause(1.5)
    line.wire.heal()
    yield


@act
def _refusals(line: Plant) -> Generator[None]:
    if line.link == "modbus-rtu-server":
        for _ in range(50):
            line.wire.inject(_busy(b"\x01\x03"))
            line.pause(0.005)
    elif line.link == "ascii":
        for _ in range(50):
            line.wire.inject(b"NAK,CHK*59\rNAK,BSY*4A\r" * 4)
            line.pause(0.005)
    else:
        line.wire.to_station = Times(30, _busy)
        line.pause(1.0)
    yield


def _busy(data: bytes) -> bytes:
    body = bytes([data[0], data[1] | 0x80, 6])
    return body + crc(body).to_bytes(2, "little")


@act
def _no_acknowledgement(line: Plant) -> Generator[None]:
    line.acknowledging = False
    yield


@act
def _acknowledges_ahead(line: Plant) -> Generator[None]:
    """The number of the part to come stands as taken before it is answered."""
    line.acknowledging = False
    ahead = line.registers[36] = line.registers[37] % 65_535 + 1
    if line.link == "ascii":
        line.wire.inject(_line(f"TAK,{ahead:05d}"))
    line.prove(lambda: line.registers[36] == ahead, "the number stands there")
    yield


@act
def _acknowledges_twice(line: Plant) -> Generator[None]:
    taken = line.registers[36]
    for _ in range(5):
        line.wire.inject(_line(f"TAK,{taken:05d}") * 2)
        line.pause(0.02)
    yield


def _delay(seconds: float, lasting: float) -> Act:
    """The PLC's bytes come so much later, in order."""

    @act
    def happens(line: Plant) -> Generator[None]:
        line.wire.delay_s = seconds
        line.pause(lasting)
        line.wire.delay_s = 0.0
        yield

    return happens


@act
def _replugged(line: Plant) -> Generator[None]:
    line.wire.unplug()
    line.pause(line.chance.uniform(0.05, 0.5))
    line.wire.plug()
    yield


@act
def _echo(line: Plant) -> Generator[None]:
    line.wire.echo = True
    line.pause(1.0)
    line.wire.echo = False
    yield


@act
def _foreign_answers(line: Plant) -> Generator[None]:
    """A second server answers too, for its own registers, with numbers that would be a part and a recipe."""
    words = bytes([1, 3, 28]) + bytes(line.chance.randrange(256) for _ in range(28))
    telegram = words + crc(words).to_bytes(2, "little")
    for _ in range(30):
        line.wire.inject(telegram)
        line.pause(0.007)
    yield


def _rebooted(silent_s: float) -> Act:
    """At the moment a part is triggered."""

    @act
    def happens(line: Plant) -> Generator[None]:
        line.restart_plc(silent_s)
        yield

    return happens


@act
def _plc_stopped(line: Plant) -> Generator[None]:
    line.beating = False
    yield


@act
def _heartbeat_jumps(line: Plant) -> Generator[None]:
    before = line.registers[32]
    line.registers[32] = (before + 30_000) % 65_536
    yield
    line.prove(lambda: (line.registers[32] - before) % 65_536 >= 30_000, "its heartbeat was set")


@act
def _counts_anew_unseen(line: Plant) -> Generator[None]:
    """Restarted between two exchanges: its heartbeat is another one, and its next part has an old number."""

    def steps() -> Steps:
        old, newest = line.judge.parts[-2:]
        line.registers[32] = (line.registers[32] + 30_000) % 65_536
        line.write_trigger(old.sequence, "X" + old.part_id[1:])
        for _ in range(60):
            yield
        line.last_sequence = newest.sequence

    line.between_parts(steps())
    yield


@act
def _silent(line: Plant) -> Generator[None]:
    line.answering = False
    line.pause(3.0)
    line.answering = True
    yield


def _part_again(back: int, other_id: bool) -> Act:
    """The PLC asks for an answered part once more, and then goes on with the next."""

    @act
    def happens(line: Plant) -> Generator[None]:
        def steps() -> Steps:
            old = line.judge.parts[-1 - back]
            newest = line.judge.parts[-1]
            line.write_trigger(old.sequence, "X" + old.part_id[1:] if other_id else old.part_id)
            for _ in range(60):
                yield
            line.write_trigger(newest.sequence, newest.part_id)
            for _ in range(20):
                yield

        line.between_parts(steps())
        yield
        line.prove_between_parts()

    return happens


def _jump(by: int) -> Act:
    """Numbers are jumped over: no part was ever there."""

    @act
    def happens(line: Plant) -> Generator[None]:
        def steps() -> Steps:
            last = line.last_sequence
            for ahead in range(1, min(by, 100)):
                line.skip((last + ahead - 1) % 65_535 + 1)
            line.last_sequence = (last + by - 2) % 65_535 + 1
            line.jumped += by - 1 if by > 100 else 0
            yield

        line.between_parts(steps())
        yield

    return happens


@act
def _falls_to_zero(line: Plant) -> Generator[None]:
    def steps() -> Steps:
        line.judge.anew()
        line.write_trigger(0, "")
        for _ in range(40):
            yield

    line.between_parts(steps())
    yield


def _command(code: int, argument: int = 0) -> Act:
    """In the middle of it all."""

    @act
    def happens(line: Plant) -> Generator[None]:
        asked = line.asked
        line.say(code, argument)
        yield
        if code == PREPARE and argument not in (BULB, IRON):
            line.asked = asked

    return happens


@act
def _changes_over(line: Plant) -> Generator[None]:
    """Parts of the old product go on coming until the new recipe is done."""
    line.say(PREPARE, IRON)
    yield
    line.product = IRON
    line.pause(0.5)


@act
def _changes_its_mind(line: Plant) -> Generator[None]:
    for recipe in (IRON, BULB, IRON, BULB):
        line.say(PREPARE, recipe)
        line.pause(line.chance.uniform(0, 0.06))
    yield


@act
def _command_flood(line: Plant) -> Generator[None]:
    for _ in range(40):
        line.say(line.chance.choice([PREPARE, START, STOP, RESET]), line.chance.choice([BULB, IRON, 77]))
        line.asked = 0  # it does not wait for the echo, so it cannot know which of them was heard
        line.pause(0.01)
    yield


@act
def _slow_exchange(line: Plant) -> Generator[None]:
    line.wire.delay_s = 0.1
    line.pause(1.0)
    yield


@act
def _megabyte(line: Plant) -> Generator[None]:
    """A PLC whose program prints without end and without CR."""
    for _ in range(250):
        line.wire.inject(bytes(line.chance.randrange(32, 127) for _ in range(1000)))
        line.pause(0.002)
    line.wire.inject(b"\r")
    yield


def _line(body: str) -> bytes:
    check = 0
    for character in body.encode():
        check ^= character
    return f"{body}*{check:02X}\r".encode()


FAULTS = [
    Fault("wire cut for 0.3 s", "wire", "nothing passes, either way", "the line goes on", goes_on, 4.0, _cut(0.3)),
    Fault(
        "wire cut for 1.2 s",
        "wire",
        "nothing passes, either way",
        "Error 2 to 4, no answer, or the line goes on",
        any_of(_WIRE, goes_on),
        5.0,
        _cut(1.2),
    ),
    Fault("wire cut for 3 s", "wire", "nothing passes, either way", "dead: the heartbeat stands", dead, 5.0, _cut(3.0)),
    Fault(
        "cut mid-telegram",
        "wire",
        "and then nothing for 1.2 s",
        "Error 2 to 4, no answer, or the line goes on",
        any_of(_WIRE, goes_on),
        5.0,
        _cut_mid_telegram,
    ),
    Fault(
        "torn telegrams",
        "wire",
        "three lose their end, either way",
        "the line goes on, or Error 2",
        any_of(goes_on, error(2)),
        5.0,
        _torn_telegrams,
    ),
    Fault(
        "bit flips to the station",
        "wire",
        "one bit in each of three pieces",
        "the line goes on, or Error 2",
        any_of(goes_on, error(2)),
        4.0,
        _flips_to_station,
    ),
    Fault(
        "bit flips to the PLC",
        "wire",
        "one bit in each of three pieces",
        "the line goes on, or Error 2",
        any_of(goes_on, error(2)),
        4.0,
        _flips_to_plc,
    ),
    Fault("noise burst", "wire", "2 kB of noise between the telegrams", "the line goes on", goes_on, 5.0, _noise),
    Fault("noise over everything", "wire", "every byte is noise for 0.3 s, either way", "the line goes on", goes_on, 5.0, _noise_both_ways),
    Fault(
        "wrong baud rate",
        "wire",
        "for 1.5 s, either way",
        "Error 2 to 4, no answer, or the line goes on",
        any_of(_WIRE, goes_on),
        6.0,
        _wrong_rate,
    ),
    Fault(
        "NAK storm",
        "wire",
        "NAK lines, or exception 6 to every request",
        "the line goes on, or Error 2 or 4",
        any_of(goes_on, error(2, 4)),
        5.0,
        _refusals,
    ),
    Fault("endless text", "wire", "250 kB without CR", "the line goes on", goes_on, 6.0, _megabyte, _LINES),
    Fault(
        "answers late",
        "wire",
        "250 ms for a second: A's reply comes for B",
        "the line goes on, Error 2, or FAIL, not running",
        any_of(goes_on, error(2), failed("not running")),
        6.0,
        _delay(0.25, 1.0),
    ),
    Fault("exchange slow", "wire", "100 ms for a second", "the line goes on", goes_on, 5.0, _slow_exchange),
    Fault(
        "echo",
        "wire",
        "the station hears itself for a second",
        "the line goes on, or an error",
        any_of(goes_on, error(2, 4, 5)),
        6.0,
        _echo,
    ),
    Fault(
        "foreign answers",
        "wire",
        "somebody else answers the station's polls",
        "the line goes on, or an error",
        any_of(goes_on, error(2, 4, 5)),
        6.0,
        _foreign_answers,
        _POLLED,
    ),
    Fault(
        "serial port gone",
        "wire",
        "the adapter is pulled for up to 0.5 s",
        "the line goes on, or Error 2",
        any_of(goes_on, error(2)),
        6.0,
        _replugged,
    ),
    Fault("no acknowledgement", "wire", "the PLC takes no result any more", "Error 4", error(4), 2.0, _no_acknowledgement),
    Fault(
        "acknowledged ahead",
        "wire",
        "the next part's number stands as taken",
        "Error 4, or the line goes on",
        any_of(error(4), goes_on),
        2.0,
        _acknowledges_ahead,
    ),
    Fault("acknowledged twice", "wire", "TAK ten times", "the line goes on", goes_on, 3.0, _acknowledges_twice, _LINES),
    Fault("PLC rebooted", "wire", "mid-part, silent for 0.3 s: counters begin anew", "Error 5", error(5), 3.0, _rebooted(0.3)),
    Fault("PLC rebooted slowly", "wire", "mid-part, silent for 2 s", "Error 2 to 5", error(2, 3, 4, 5), 6.0, _rebooted(2.0)),
    Fault("PLC stopped", "wire", "its heartbeat stands, the server answers", "Error 3", error(3), 3.0, _plc_stopped),
    Fault(
        "PLC silent for 3 s",
        "wire",
        "it reads and does not answer",
        "Error 2 or 3, or no answer",
        any_of(error(2, 3), dead, times_out),
        6.0,
        _silent,
    ),
    Fault("PLC's heartbeat jumps", "wire", "by 30,000; its parts go on", "the line goes on", goes_on, 3.0, _heartbeat_jumps),
    Fault(
        "PLC counts anew unseen",
        "wire",
        "its heartbeat jumps; its part has an old number",
        "Error 5",
        error(5),
        3.0,
        _counts_anew_unseen,
    ),
    Fault(
        "trigger repeated",
        "wire",
        "the last part is asked for again",
        "the same answer, the line goes on",
        goes_on,
        3.0,
        _part_again(0, other_id=False),
    ),
    Fault(
        "old trigger",
        "wire",
        "the part before the last is asked for again",
        "the same answer, the line goes on",
        goes_on,
        3.0,
        _part_again(1, other_id=False),
    ),
    Fault(
        "old number, new part",
        "wire",
        "an answered number with another part id",
        "no answer to it; the line goes on",
        goes_on,
        4.0,
        _part_again(1, other_id=True),
    ),
    Fault("triggers lost", "wire", "the number jumps by 5", "FAIL, missed frame, for those between", failed("missed frame"), 2.0, _jump(5)),
    Fault(
        "another numbering",
        "wire",
        "the number jumps by 1000",
        "FAIL for the first one",
        failed("missed frame", "not running"),
        2.0,
        _jump(1000),
    ),
    Fault("trigger falls to 0", "wire", "while the line runs", "Error 5", error(5), 2.0, _falls_to_zero),
    Fault(
        "recipe change mid-part",
        "wire",
        "parts of the old product go on coming",
        "FAIL, wrong recipe, or done",
        any_of(failed("wrong recipe"), done),
        6.0,
        _changes_over,
    ),
    Fault(
        "recipe changed and changed back",
        "wire",
        "four PrepareRecipe within 0.2 s",
        "FAIL, wrong recipe, or done",
        any_of(failed("wrong recipe"), done),
        6.0,
        _changes_its_mind,
    ),
    Fault(
        "unknown recipe",
        "wire",
        "PrepareRecipe(77) while the line runs",
        "refused (21); the old one stays",
        refused(21),
        3.0,
        _command(PREPARE, 77),
    ),
    Fault("command not allowed", "wire", "StartContinuous while it runs", "refused (20)", refused(20), 2.0, _command(START)),
    Fault("unknown command", "wire", "99", "refused (22)", refused(22), 2.0, _command(99), _REGISTERS),
    Fault("halt", "wire", "Halt while the line runs", "FAIL, not running", failed("not running"), 2.0, _command(6)),
    Fault(
        "command flood",
        "wire",
        "40 commands, one each 10 ms",
        "some are done or refused",
        any_of(done, refused(20, 21, 23), failed("not running")),
        6.0,
        _command_flood,
    ),
]

assert {link for fault in FAULTS for link in fault.links} == set(PLC_COUNTS)
