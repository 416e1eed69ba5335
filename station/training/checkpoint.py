"""Where a training stands, on disk: after a kill, a power cut or a full disk it goes on from there, on a CPU to the same numbers."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Checkpoints:
    """The states of one training's runs, by name.

    Attributes:
        folder: of this training under exactly these settings, pictures and code: others never read it.
        every_s: at most so much work is lost.
        writes: False in all processes of a training but one.
    """

    folder: Path
    every_s: float = 300.0
    writes: bool = True
    _saved_s: float = field(default_factory=time.monotonic, init=False)

    @classmethod
    def of(cls, folder: Path, identity: Mapping[str, object], writes: bool = True) -> "Checkpoints":
        """Those under `folder` that belong to what `identity` says, which JSON can hold."""
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return cls(folder / key, writes=writes)

    def due(self) -> bool:
        """Whether so much was done since the last save that it should not be lost."""
        return time.monotonic() - self._saved_s >= self.every_s

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Keeps `state` under `name`: afterwards it is on the disk whole, or the one before still is."""
        self._saved_s = time.monotonic()
        if not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f".{name}.unfinished"
        with unfinished.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._file(name))

    def load(self, name: str) -> dict[str, Any] | None:
        """The last state kept under `name`, on the CPU; None where there is none."""
        if not self._file(name).is_file():
            return None
        state: dict[str, Any] = torch.load(self._file(name), map_location="cpu", weights_only=True)
        return state

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.pt"
