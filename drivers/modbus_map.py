"""The register map of the wire's version 1, the same in either Modbus role: station block 0..23, command block 32..45. No I/O.

The page for whoever programs the other end is `docs/plc.md`.
"""

from collections.abc import Sequence
from dataclasses import replace

from drivers.plc import FAIL_WORD, NO_RESULT, PASS_WORD, WIRE_VERSION, PlcCommand, PlcInput, StationSignals, Trigger
from drivers.wire_words import clipped, exact, ten_thousandths

STATION_BLOCK = range(24)
COMMAND_BLOCK = range(32, 46)
RESULT_SEQUENCE, VERDICT = 5, 6
ACKNOWLEDGE, TRIGGER_SEQUENCE = 36, 37
_PREOPERATIONAL = 1


def encode_signals(signals: StationSignals) -> list[int]:
    """The station block, registers 0..23, each 0..65535.

    Measures are clipped (a probability that is no number is 0) and the heartbeat wraps. The verdict is the code word for PASS only if
    `passed` is the very `True`; anything else is FAIL.

    Raises:
        ValueError: a state, sequence, recipe number or checksum does not fit a register. Clipped, it would name something else.
    """
    result = signals.result
    return [
        WIRE_VERSION,
        exact("state", signals.state),
        signals.heartbeat % 0x10000,
        exact("recipe number", signals.recipe_number),
        exact("recipe checksum", signals.recipe_checksum),
        exact("result sequence", result.sequence),
        PASS_WORD if result.passed is True else FAIL_WORD,
        exact("reason", result.reason),
        clipped(result.class_index),
        ten_thousandths(result.probability),
        clipped(result.defects),
        clipped(result.defect_area_px),
        *(clipped(pixels) for pixels in result.largest_defect_px),
        clipped(result.elapsed_ms),
        exact("recipe number of the result", result.recipe_number),
        exact("recipe checksum of the result", result.recipe_checksum),
        exact("command echo", signals.command_echo),
        signals.command_status,
        clipped(signals.error_code),
        clipped(signals.failed_parts),
        result.sequence,
    ]


def encode_goodbye(told: StationSignals) -> list[int]:
    """The station block that a link leaves behind: what was told last, but Preoperational, no recipe, no result, verdict FAIL."""
    return encode_signals(replace(told, state=_PREOPERATIONAL, recipe_number=0, recipe_checksum=0, result=NO_RESULT))


def decode_command_block(words: Sequence[int]) -> PlcInput:
    """What registers 32..45 say. The trigger that stands in them is always there, with sequence 0 when the PLC asks for nothing.

    Raises:
        ValueError: there are not 14 words.
    """
    if len(words) != len(COMMAND_BLOCK):
        raise ValueError(f"the command block has {len(COMMAND_BLOCK)} registers, not {len(words)}")
    heartbeat, code, argument, command_sequence, acknowledged, trigger_sequence = words[:6]
    characters = b"".join(word.to_bytes(2, "big") for word in words[6:])
    part_id = "".join(chr(character) for character in characters if 0x20 <= character < 0x7F)
    return PlcInput(heartbeat, PlcCommand(code, argument, command_sequence), acknowledged, (Trigger(trigger_sequence, part_id),))
