"""How part numbers follow each other on the wire: 1..65535, then 1 again; 0 is none yet. Pure arithmetic, no state."""

from drivers.plc import LAST_SEQUENCE

MOST_MISSED = 100
"""A jump further ahead than this is no gap but another numbering."""


def following(sequence: int) -> int:
    """The number after `sequence`; 1 after 0 and after 65535."""
    return sequence % LAST_SEQUENCE + 1


def is_ahead(last: int, seen: int) -> bool:
    """True when `seen` is reached sooner by counting up from `last` than by counting down."""
    return 0 < (seen - last) % LAST_SEQUENCE <= LAST_SEQUENCE // 2


def due(last: int, seen: int) -> tuple[int, ...] | None:
    """The numbers to be answered, oldest first, when `seen` is asked for after `last`: the missed ones and then `seen` itself.

    None when `seen` does not follow: it was there before, or belongs to another numbering, or is no part's number. After `last` 0 any
    part's number is the first.
    """
    if not 1 <= seen <= LAST_SEQUENCE:
        return None
    if last == 0:
        return (seen,)
    ahead = (seen - last) % LAST_SEQUENCE
    if not 1 <= ahead <= MOST_MISSED + 1:
        return None
    numbers = [following(last)]
    while numbers[-1] != seen:
        numbers.append(following(numbers[-1]))
    return tuple(numbers)
