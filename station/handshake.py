"""The PLC's commands, four-phase, and which recipe it has asked for. Owns registers 19, 20 and, while a command has failed, 21."""

from dataclasses import dataclass

from drivers.plc import Command, CommandStatus, ErrorCode, PlcCommand


@dataclass(frozen=True, slots=True)
class Asked:
    """The recipe that the PLC asked for, and what it was given: 0 when it never asked, an empty hash while it waits."""

    number: int = 0
    hash: str = ""

    def __str__(self) -> str:
        return f"{self.number} {self.hash}"

    @classmethod
    def parse(cls, text: str) -> "Asked":
        """What `str` wrote; nothing asked when it is empty."""
        number, _, digest = text.partition(" ")
        return cls(int(number or 0), digest)


class Handshake:
    """Tells a new command from one that stands, keeps its echo and status, and remembers what was asked for."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.echo = 0
        self.status = CommandStatus.IDLE
        self.error_code = ErrorCode.NONE
        self._granted = asked
        self._asking = 0
        self._sequence: int | None = None

    def take(self, command: PlcCommand) -> bool:
        """True when this is a new command, to be executed now.

        What stands at first contact was said to nobody and is no command; code 0 ends the one before.
        """
        new = self._sequence is not None and command.sequence != self._sequence
        self._sequence = command.sequence
        if command.code == Command.NONE:
            if self.status is not CommandStatus.EXECUTING or new:
                self.status, self.error_code = CommandStatus.IDLE, ErrorCode.NONE
            return False
        if new:
            self.echo, self.status, self.error_code = command.sequence, CommandStatus.EXECUTING, ErrorCode.NONE
        return new

    def finish(self, sequence: int, code: ErrorCode) -> None:
        """Ends the command of that sequence; one that was followed by another has nobody left to tell."""
        if sequence == self.echo:
            self.status, self.error_code = (CommandStatus.FAILED if code else CommandStatus.DONE), code

    def ask(self, number: int) -> int:
        """From now on only recipe `number` can pass a part, and nothing can until it is granted. Returns the asking's own number."""
        self.asked = Asked(number)
        self._asking += 1
        return self._asking

    def grant(self, asking: int, digest: str) -> None:
        """What was asked for is prepared, with this hash; only the newest asking counts."""
        if asking == self._asking:
            self.asked = self._granted = Asked(self.asked.number, digest)

    def refuse(self, asking: int) -> None:
        """What was asked for is not to be had: what was granted before counts again."""
        if asking == self._asking:
            self.asked = self._granted

    def release(self) -> None:
        """The PLC asks for nothing any more."""
        self.asked = self._granted = Asked()
