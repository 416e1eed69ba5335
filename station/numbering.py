"""Which numbers the PLC's trigger register asks for: it repeats the one that stands, jumps, falls, and begins again. No I/O."""

from drivers.plc import LAST_SEQUENCE
from station.sequence import due, following

OLD_IN_A_ROW = 3
"""A PLC that asks for more old parts one after the other, without a new one, counts them: they are other parts under old numbers."""
FALL = 8
"""A number that falls to 1 from further than this is a count that began again."""


class Numbering:
    """Owns the number of the last part, and which of the PLC's triggers was heard before.

    Attributes:
        last: the number of the last part that was asked for or counted; 0 when there is none in this numbering.
    """

    def __init__(self, last: int) -> None:
        """`last`: the number of the last part that was answered before the station came, 0 when there was none."""
        self.last = last
        self._standing: int | None = None
        self._old_in_a_row = 0

    @property
    def met(self) -> bool:
        """True once the PLC's register was seen."""
        return self._standing is not None

    def meet(self, standing: int) -> None:
        """First contact: a trigger that stands there is an old part when it was the last one answered, else one that came while away."""
        self._standing = standing if standing == self.last else 0
        if due(self.last, standing) is None and standing != self.last:
            self.last = 0

    def is_new(self, sequence: int) -> bool:
        """True for a trigger that was not the last one heard. 0 is one too: a new numbering begins."""
        before, self._standing = self._standing, sequence
        return sequence != before

    def take(self, sequence: int) -> tuple[int, ...] | None:
        """The numbers that a new trigger asks for, oldest first: those it jumped over, and itself. None when it does not follow."""
        numbers = due(self.last, sequence)
        if numbers is not None:
            self.go_on_from(sequence)
        return numbers

    def repeats(self, sequence: int) -> bool:
        """True when a number that is behind can ask for its part again; False when the count began again, and it is another part's.

        The newest two always can: a register asks for the newest again by way of the one before.
        """
        behind = (self.last - sequence) % LAST_SEQUENCE
        if behind <= 1:
            return True
        self._old_in_a_row += 1
        return self._old_in_a_row <= OLD_IN_A_ROW and (sequence != 1 or behind <= FALL)

    def give(self) -> int:
        """The next number, where the PLC gives none."""
        self.last = following(self.last)
        return self.last

    def go_on_from(self, sequence: int) -> None:
        """Takes a number for the last one."""
        self.last = sequence
        self._old_in_a_row = 0

    def begin_anew(self) -> None:
        """The next number is the first."""
        self.go_on_from(0)
