"""Which numbers the PLC's trigger register asks for: it repeats the one that stands, jumps, falls, and begins again. No I/O."""

from station.sequence import due, following


class Numbering:
    """Owns the number of the last part, and which of the PLC's triggers was heard before.

    Attributes:
        last: the number of the last part that was asked for or counted; 0 when there is none in this numbering.
    """

    def __init__(self, last: int) -> None:
        """`last`: the number of the last part that was answered before the station came, 0 when there was none."""
        self.last = last
        self._standing: int | None = None

    @property
    def met(self) -> bool:
        """True once the PLC's register was seen."""
        return self._standing is not None

    def meet(self, standing: int) -> None:
        """First contact: a trigger that stands there is an old part when it was the last one answered, else one that came while away."""
        self._standing = standing if standing in (0, self.last) else 0
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
            self.last = sequence
        return numbers

    def give(self) -> int:
        """The next number, where the PLC gives none."""
        self.last = following(self.last)
        return self.last

    def go_on_from(self, sequence: int) -> None:
        """Takes a number that did not follow for the last one."""
        self.last = sequence

    def begin_anew(self) -> None:
        """The next number is the first."""
        self.last = 0
