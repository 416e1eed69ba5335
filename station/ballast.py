"""Room on a disk that no other program can take: a preallocated file, given up when the disk is full."""

import os
from pathlib import Path


class Ballast:
    """A file without content. What it holds is held against every program that writes to this disk, whoever runs it."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path, self.size_bytes = path, size_bytes

    def held(self) -> bool:
        """Whether the room is held now."""
        try:
            return self._path.stat().st_size == self.size_bytes
        except FileNotFoundError:
            return False

    def hold(self) -> None:
        """Takes the room, if it is not held already; it is held whole or not at all.

        Raises:
            OSError: there is not so much room, or the disk cannot be written.
        """
        if self.held():
            return
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.size_bytes)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise

    def give_up(self) -> bool:
        """Gives the room back to the disk; False when there was none to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
