"""`SharedRing`: pictures in memory that two processes share and that nothing outlives: a memory file has no name to leave behind."""

import mmap
import os
import weakref
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from drivers.camera import Pixels


def memory_file(size: int) -> int:
    """A descriptor of `size` bytes of zeros that another process can map when it is sent there. The caller closes it."""
    file = os.memfd_create("camera", os.MFD_CLOEXEC)
    os.ftruncate(file, size)
    return file


class SharedRing:
    """Slots for pictures, and a byte for each that says whether it is taken: the writer sets it, the reader clears it, nobody locks.

    The mapping lives as long as the ring or any picture in it.
    """

    def __init__(self, file: int, slots: int, slot_bytes: int) -> None:
        """Maps a `memory_file` of `size(slots, slot_bytes)` bytes and leaves its descriptor open."""
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._memory = mmap.mmap(file, self.size(slots, slot_bytes))

    @staticmethod
    def size(slots: int, slot_bytes: int) -> int:
        """Bytes that `slots` slots need with their marks, each slot on its own pages."""
        return _pages(slots) + slots * _pages(slot_bytes)

    def take(self) -> int | None:
        """The writer's: a free slot, now marked as taken, or None."""
        slot = self._memory.find(b"\0", 0, self.slots)
        if slot < 0:
            return None
        self._memory[slot] = 1
        return slot

    def picture(self, slot: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels:
        """A view of a taken slot."""
        picture: Pixels = np.ndarray(shape, dtype, self._memory, _pages(self.slots) + slot * _pages(self.slot_bytes))
        return picture

    def lend(self, slot: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels:
        """The reader's: a read-only view of a taken slot, which is given back when neither the view nor a part of it is referenced."""
        picture = self.picture(slot, shape, dtype)
        picture.flags.writeable = False
        weakref.finalize(picture, self.give_back, slot).atexit = False
        return picture

    def give_back(self, slot: int) -> None:
        """The reader's: frees the slot. One byte is stored, so any thread may do it."""
        self._memory[slot] = 0

    def emptied(self) -> Iterator[None]:
        """Gives the memory of the free slots back to the machine, one slot a step: at once it takes 10 ms for 16 pictures of 4 MB."""
        for slot in range(self.slots):
            if not self._memory[slot]:
                self._memory.madvise(mmap.MADV_REMOVE, _pages(self.slots) + slot * _pages(self.slot_bytes), _pages(self.slot_bytes))
            yield


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
