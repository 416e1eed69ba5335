"""How a number becomes a word of the wire, in every dialect: what names something must fit, what measures something is clipped."""


def exact(name: str, value: int) -> int:
    """`value`, which names a part, a recipe or a state.

    Raises:
        ValueError: it is not 0..65535. Clipped, it would name something else.
    """
    if not 0 <= value <= 0xFFFF:
        raise ValueError(f"{name} {value} does not fit the wire; it must be 0..65535")
    return int(value)


def clipped(value: int) -> int:
    """`value`, which measures something, or the nearest that a word can say."""
    return min(max(int(value), 0), 0xFFFF)


def ten_thousandths(probability: float) -> int:
    """A probability x 10000, 0..10000; 0 when it is no number."""
    return round(min(probability, 1.0) * 10_000) if probability > 0 else 0
