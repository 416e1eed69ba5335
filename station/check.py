"""What `station doctor` says of one thing it looked at."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One thing looked at. `fix` is empty when there is nothing to do."""

    check: str
    status: Status
    detail: str
    fix: str = ""
