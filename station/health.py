"""Lamp, lens and mounting watched over weeks: every judged frame is gauged, and what drifts is told before the network is fooled.

The reference of a recipe is what its first good parts showed, and stays in a file. Whoever changed lamp, lens or mounting on purpose
deletes that file, and the next good parts teach anew.
"""

import json
import os
from collections import deque
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from drivers.camera import Frame
from station.inspection import Result, Verdict
from station.vision.drift import LIMITS, TAUGHT, WINDOW, Drift, Reference, Usual, compare, learn
from station.vision.gauges import SMALLEST_PX, Gauges, Profile, gauges

_STAYS = 0.8
"""An alarm goes when its drift is back below this part of its limit: at the limit itself it would come and go."""
_RECIPES = 32
"""So many recipes are watched at a time; the one that was not seen for longest is forgotten, its file is not."""
_NAMES = {"mean_level": "light: mean level", "bright_level": "light: bright level", "focus": "focus: fine detail"}
_DO = {
    "mean_level": "clean or replace the lamp, check aperture and exposure",
    "bright_level": "clean or replace the lamp, check aperture and exposure",
    "focus": "focus and clean the lens, look for vibration",
    "saturated": "turn the lamp or the exposure down, look for stray light",
    "shift": "fasten camera, lens and fixture where they were",
}


class Health:
    """What the frames say of the camera's surroundings. Called by one thread, after the answer; it never raises and decides nothing."""

    def __init__(self, directory: Path) -> None:
        """`directory` holds the references, RECIPE_HASH.json each; it is made with the first one."""
        self._directory = directory
        self._watched: dict[str, _Watch] = {}
        self._current: _Watch | None = None
        self._trouble = ""

    @property
    def alarms(self) -> tuple[str, ...]:
        """What has drifted under the recipe that judged last: the number, and what to do. Empty while there is nothing to tell."""
        drifted = self._current.alarms() if self._current else ()
        return (*drifted, self._trouble) if self._trouble else drifted

    @property
    def gauges(self) -> dict[str, Any]:
        """The last frame's gauges and the drift of the last frames, fit for JSON; empty before the first frame."""
        return self._current.document() if self._current else {}

    def offer(self, result: Result, frame: Frame | None) -> None:
        """Gauges the frame of a part that was inspected, within 3 ms at 2048 x 2048; others are ignored.

        Every judged part counts against the reference, since a drift may make them fail; only those that passed teach one.
        """
        if frame is None or frame.flaw or result.inspection is None or min(frame.pixels.shape[:2]) < SMALLEST_PX:
            return
        try:
            self._current, self._trouble = None, ""
            self._current = self._watch(result.recipe_hash)
            self._current.add(gauges(frame.pixels, frame.pixel_format), result.verdict is Verdict.PASS)
        except Exception as error:  # noqa: BLE001  whatever goes wrong here must become an alarm: the line goes on without gauges
            self._trouble = f"health: {error or type(error).__name__}"

    def _watch(self, recipe_hash: str) -> "_Watch":
        watch = self._watched.pop(recipe_hash, None) or _Watch(self._directory / f"{recipe_hash}.json")
        self._watched[recipe_hash] = watch
        if len(self._watched) > _RECIPES:
            del self._watched[next(iter(self._watched))]
        return watch


class _Watch:
    """One recipe's reference, its last frames, and what has drifted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reference = _read(path)
        self._kept = self._reference is not None
        self._teaching: list[Gauges] = []
        self._last: deque[Gauges] = deque(maxlen=WINDOW)
        self._drift: Drift | None = None
        self._drifted: set[str] = set()
        self._unkept = ""

    def add(self, seen: Gauges, passed: bool) -> None:
        """One more frame.

        Raises:
            ValueError: the reference was learnt from frames of another size.
        """
        sizes = (len(seen.profile_x), len(seen.profile_y))
        if self._last and sizes != (len(self._last[0].profile_x), len(self._last[0].profile_y)):
            self._teaching.clear()
            self._last.clear()
        self._last.append(seen)
        if self._kept and not self._path.exists():
            self._reference, self._kept, self._drift, self._drifted = None, False, None, set()
        if self._reference is None:
            self._teach(seen, passed)
        elif sizes != self._reference.sizes:
            raise ValueError(
                f"{self._path}: was learnt from frames of another size; delete it, and the next {TAUGHT} good parts teach anew"
            )
        elif len(self._last) == WINDOW:
            self._drift = compare(self._reference, self._last)
            beyond = self._drift.beyond
            self._drifted = {name for name in beyond if beyond[name] >= (_STAYS if name in self._drifted else 1)}

    def _teach(self, seen: Gauges, passed: bool) -> None:
        if passed:
            self._teaching.append(seen)
        if len(self._teaching) == TAUGHT:
            self._reference = learn(self._teaching)
            self._teaching = []
            try:
                _write(self._path, self._reference)
                self._kept = True
            except OSError as error:
                self._unkept = f"health: {self._path}: cannot be written: {error.strerror}; the reference lasts until the station stops"

    def alarms(self) -> tuple[str, ...]:
        """In the order of the gauges."""
        kept = (self._unkept,) if self._unkept else ()
        if self._drift is None:
            return kept
        drift, drifted = self._drift, self._drifted
        words = [_words(name, drift.change[name]) for name in drift.change if name in drifted]
        if drifted & {"shift_x", "shift_y"}:
            words.append(f"shift: the picture has moved against the reference by {_shift_words(drift)}: {_DO['shift']}")
        return (*words, *kept)

    def document(self) -> dict[str, Any]:
        """As `Health.gauges`."""
        seen = self._last[-1]
        document: dict[str, Any] = {
            "mean_level": round(seen.mean_level, 1),
            "bright_level": round(seen.bright_level, 1),
            "saturated": round(seen.saturated, 4),
            "focus": round(seen.focus, 4),
            "taught": TAUGHT if self._reference else len(self._teaching),
            "to_teach": TAUGHT,
        }
        if self._drift:
            document["change"] = {name: round(change, 4) for name, change in self._drift.change.items()}
            document["shift_px"] = [None if px is None or isnan(px) else round(px, 2) for px in self._drift.shift_px]
        return document


def _words(name: str, change: float) -> str:
    if name == "saturated":
        return f"light: {abs(change):.0%} of the picture {'more' if change > 0 else 'less'} is white than in the reference: {_DO[name]}"
    return f"{_NAMES[name]} {abs(change):.0%} {'above' if change > 0 else 'below'} the reference: {_DO[name]}"


def _shift_words(drift: Drift) -> str:
    along = [(axis, px) for axis, px in zip("xy", drift.shift_px, strict=True) if px is not None]
    return ", ".join(f"more than can be told along {axis}" if isnan(px) else f"{px:+.1f} px along {axis}" for axis, px in along)


def _read(path: Path) -> Reference | None:
    """The reference in the file, None when there is none.

    Raises:
        ValueError: the file is no reference.
        OSError: it cannot be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        x, y = document["edges"]
        width, height = document["sizes"]
        usual = {name: Usual(**values) for name, values in document["usual"].items()}
        if usual.keys() != LIMITS.keys() or any(edges and len(edges) != size for edges, size in ((x, width), (y, height))):
            raise ValueError("it does not fit together")
        return Reference(usual, (_profile(x), _profile(y)), (width, height))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no reference ({error!r}); delete it, and the next {TAUGHT} good parts teach anew") from None


def _profile(values: list[float] | None) -> Profile | None:
    return None if values is None else np.array(values, np.float32)


def _write(path: Path, reference: Reference) -> None:
    """Whole or not at all."""
    document = {
        "usual": {name: asdict(usual) for name, usual in reference.usual.items()},
        "edges": [None if edges is None else [round(float(edge), 3) for edge in edges] for edges in reference.edges],
        "sizes": reference.sizes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
