"""Engines of a network on this machine: built once in a process of their own, compared with fp32, kept by the hash of all they depend on.

    HOME/data/engines/KEY/engine.json     what was built, how near it is to fp32, how fast it was; a built model lies beside it

Nothing kept is trusted across a change: KEY is the hash of the weights, the engine, the pictures, the versions of the libraries and of this
code, and the processor. A model is opened only if its files still are what was compared.
"""

import fcntl
import hashlib
import json
import os
import pickle
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import torch

from station.vision import weights
from station.vision.dvgg16 import NetworkDescription
from station.vision.engine import Engine, EngineError, Precision, Runner, choose_device
from station.vision.parity import Pair, Parity, Passes, Picture, compare, pair, reference
from station.vision.weights import LoadedWeights, WeightsError, WeightsFile

Wanted = Precision | Literal["auto"]
"""A recipe's precision; `auto` is the fastest that passes the parity gate."""
_KEPT = 32
"""So many built engines stay, some 250 MB each at the most."""
_FREE_BYTES = 1_000_000_000
"""So much of the disk is left to the ledger."""
_LOOK_UP_S = 0.2
REFUSED = 3
"""Exit code of a build that ended in an error of ours, its words on stdout."""
_PACKAGES = {"torch": ("torch",), "openvino": ("torch", "openvino", "nncf")}


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine there can be: which library runs it where, and in what its trunks compute."""

    library: Literal["torch", "openvino"]
    device: Literal["cpu", "cuda"]
    precision: Precision

    @property
    def name(self) -> str:
        """Such as `openvino-cpu-int8`."""
        return f"{self.library}-{self.device}-{self.precision}"


KINDS = (
    Kind("openvino", "cpu", "fp32"),
    Kind("openvino", "cpu", "int8"),
    Kind("torch", "cuda", "fp16"),
    Kind("torch", "cuda", "bf16"),
)
"""All that are built and compared; torch in fp32, on either device, is what they are compared with."""


@dataclass(frozen=True, slots=True)
class Built:
    """What is kept of an engine beside its model: engine.json.

    Attributes:
        name: of the engine.
        pairs: every golden and every self-test picture, seen by fp32 and by this engine.
        frame_ms, fp32_ms: shortest time of a frame at the network's own size, this engine's and fp32's on torch, measured in turn.
        model: SHA-256 of each file of the model; empty where there is none.
    """

    name: str
    pairs: tuple[Pair, ...]
    frame_ms: float
    fp32_ms: float
    model: dict[str, str]


@dataclass(frozen=True, slots=True)
class Considered:
    """An engine that could have been taken.

    Attributes:
        kind: which.
        folder: where it is kept.
        built: None where it could not be built.
        refused: why it may not judge parts of this recipe; empty if it may.
    """

    kind: Kind
    folder: Path
    built: Built | None
    parity: Parity | None
    refused: str

    @property
    def name(self) -> str:
        """As of its kind."""
        return self.kind.name


@dataclass(frozen=True, slots=True)
class Ready:
    """An engine in hand, and what every engine that was considered for it came to."""

    engine: Engine
    considered: tuple[Considered, ...]


def ready(file: WeightsFile, wanted: Wanted, device: str, engines: Path, self_test: Sequence[Picture], passes: Passes) -> Ready:
    """The engine for a network in the wanted precision, verified and warm; builds what is not there yet, which may take minutes.

    `fp32` is torch's. Any other is used only if it passes the parity gate on the golden pictures, which no model is calibrated by, and on
    the recipe's self-test pictures, which int8 is calibrated by. `auto` is the fastest that passes, fp32 among them.

    Args:
        engines: the folder of what was built.
        self_test: pictures of the recipe's product.

    Raises:
        EngineError, GoldenError: there is no such engine here, it does not pass, it cannot be built, or as `Engine`.
        WeightsError: as `load`; or the file is not the one that was read.
    """
    where = choose_device(device).type
    if wanted == "fp32":
        return Ready(reference(_loaded(file.path, file.sha256), where), ())
    kinds = [kind for kind in KINDS if kind.device == where and wanted in ("auto", kind.precision) and _installed(kind.library)]
    if not kinds and wanted != "auto":
        raise EngineError(
            f"network.precision: {wanted} does not run on {where} here; write fp32 or auto"
            + (", or install OpenVINO: pip install station[openvino]" if where == "cpu" and wanted == "int8" else "")
        )
    considered = tuple(_considered(file, kind, engines, self_test, passes) for kind in kinds)
    fit = [(one, one.built) for one in considered if one.built is not None and not one.refused]
    if not fit and wanted != "auto":
        raise EngineError(f"network.precision: {wanted}: {considered[0].name} {considered[0].refused}; write fp32 or auto")
    fastest, built = min(fit, key=lambda one: one[1].frame_ms / one[1].fp32_ms, default=(None, None))
    if fastest is None or built is None or (wanted == "auto" and built.frame_ms >= built.fp32_ms):
        return Ready(reference(_loaded(file.path, file.sha256), where), considered)
    return Ready(_open(file, fastest), considered)


def _considered(file: WeightsFile, kind: Kind, engines: Path, self_test: Sequence[Picture], passes: Passes) -> Considered:
    folder = engines / _key(file, kind, self_test)
    try:
        built = _built(file, kind, folder, self_test)
    except (EngineError, OSError) as error:
        return Considered(kind, folder, None, None, f"cannot be built: {error}")
    parity = compare(built.pairs, passes)
    return Considered(kind, folder, built, parity, "" if parity.holds else f"does not say what fp32 says: {parity}")


def _built(file: WeightsFile, kind: Kind, folder: Path, self_test: Sequence[Picture]) -> Built:
    """What is kept of this engine; builds it where nothing is, or not what was compared."""
    if (kept := _kept(folder)) is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # somebody else may be building the same
            if (kept := _kept(folder)) is None:
                _build_apart(file, kind, self_test, folder)
                kept = _kept(folder)
    if kept is None:
        raise EngineError(f"{folder} does not hold what was built; check the disk")
    with suppress(OSError):
        os.utime(folder)  # used: the last to go
    return kept


def _build_apart(file: WeightsFile, kind: Kind, self_test: Sequence[Picture], folder: Path) -> None:
    """Builds in a process of its own: its memory, its threads and what its libraries print stay out of the station.

    It ends with the station: the main thread's end, for which the interpreter waits for this one, ends it too.
    """
    for unfinished in folder.parent.glob(".unfinished-*"):  # of a build that was killed
        shutil.rmtree(unfinished, ignore_errors=True)
    needed = _FREE_BYTES + 3 * file.path.stat().st_size
    if shutil.disk_usage(folder.parent).free < needed:
        raise EngineError(f"{folder.parent}: less than {needed / 1e9:.1f} GB are free; make room")
    asked = pickle.dumps((file.path, file.sha256, kind, tuple(self_test), folder))
    command = [sys.executable, "-P", "-m", "station.vision.build_engine"]
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
        told.write(asked)
        told.seek(0)
        child = subprocess.Popen(command, stdin=told, stdout=said, stderr=subprocess.DEVNULL)
        try:
            while child.poll() is None:
                if not threading.main_thread().is_alive():
                    raise EngineError("the station is stopping")
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_LOOK_UP_S)
        finally:
            child.kill()
            child.wait()
        said.seek(0)
        words = said.read().decode(errors="replace").strip()
    if child.returncode == REFUSED:
        raise EngineError(words)
    if child.returncode:
        ended = f"was killed by signal {-child.returncode}, out of memory perhaps" if child.returncode < 0 else "broke off"
        raise EngineError(f"its building {ended}; `python -m station.bench.network` shows what its libraries say")


def _kept(folder: Path) -> Built | None:
    """What lies in the folder, if it is what was put there."""
    try:
        document = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
        pairs = tuple(Pair(tuple(one["fp32"]), tuple(one["engine"]), one["heat_map"]) for one in document.pop("pairs"))
        built = Built(pairs=pairs, **document)
        whole = all(_file_hash(folder / name) == sha256 for name, sha256 in built.model.items())
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return built if whole else None


def build(path: Path, sha256: str, kind: Kind, self_test: Sequence[Picture], folder: Path) -> None:
    """Builds, compares and times an engine, and puts it into `folder`, whole."""
    loaded = _loaded(path, sha256)
    fp32 = reference(loaded, kind.device)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unfinished-") as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        if kind.library == "openvino":
            from station.vision import openvino_cpu  # noqa: PLC0415  an optional extra

            openvino_cpu.build(loaded.network, "int8" if kind.precision == "int8" else "fp32", _both_ways(self_test), unfinished)
        engine = Engine(kind.name, _runner(kind, path, sha256, loaded.description, unfinished), loaded.description, ())
        pairs, times = [], []
        for pixels, pixel_format in [*((one.rgb, "RGB8") for one in loaded.golden), *self_test]:
            start = time.perf_counter()
            was = fp32.see(pixels, pixel_format)
            between = time.perf_counter()
            pairs.append(pair(was, engine.see(pixels, pixel_format)))
            times.append((time.perf_counter() - between, between - start))
        engine_s, fp32_s = (min(one) for one in zip(*times, strict=True))  # other work only ever adds
        model = {part.name: _file_hash(part) for part in sorted(unfinished.iterdir())}
        built = Built(kind.name, tuple(pairs), engine_s * 1e3, fp32_s * 1e3, model)
        weights.write_whole(unfinished / "engine.json", json.dumps(asdict(built), indent=1).encode())
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.replace(folder)
    _only_the_newest(folder.parent)


def _both_ways(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures and their mirror images."""
    return [*pictures, *((pixels[:, ::-1].copy(), pixel_format) for pixels, pixel_format in pictures)]


def _open(file: WeightsFile, chosen: Considered) -> Engine:
    runner = _runner(chosen.kind, file.path, file.sha256, file.description, chosen.folder)
    if _kept(chosen.folder) != chosen.built:
        raise EngineError(f"{chosen.folder}: was changed while it was opened; try again")
    return Engine(chosen.name, runner, file.description, file.golden)


def _runner(kind: Kind, path: Path, sha256: str, description: NetworkDescription, folder: Path) -> Runner:
    if kind.library == "openvino":
        from station.vision.openvino_cpu import OpenVinoCpu  # noqa: PLC0415  an optional extra

        return OpenVinoCpu(folder, description)
    from station.vision.cuda import Cuda  # noqa: PLC0415  only where there is a CUDA device

    assert kind.precision != "int8"
    return Cuda(_loaded(path, sha256).network, kind.precision)


def _loaded(path: Path, sha256: str) -> LoadedWeights:
    """The very file that was read before."""
    loaded = weights.load(path)
    if loaded.sha256 != sha256:
        raise WeightsError(f"{path}: was replaced while it was being prepared; prepare the recipe again")
    return loaded


def _key(file: WeightsFile, engine: Kind, self_test: Sequence[Picture]) -> str:
    """The hash of everything that a built engine depends on."""
    depends = {
        "weights": file.sha256,
        "engine": engine.name,
        "pictures": [_hash(f"{kind} {pixels.shape} ".encode() + pixels.tobytes()) for pixels, kind in self_test],
        "versions": {name: version(name) for name in (*_PACKAGES[engine.library], "numpy")} | {"opencv": cv2.__version__},
        "code": [_file_hash(source) for source in sorted(Path(__file__).parent.glob("*.py"))],
        "device": torch.cuda.get_device_name() if engine.device == "cuda" else _processor(),
    }
    return _hash(json.dumps(depends, sort_keys=True).encode())[:32]


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor() -> str:
    """The processor's name, what it can do, and how many of it there are."""
    found = re.findall(r"^(?:model name|flags)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return f"{os.cpu_count()} x {' '.join(found[:2]) or platform.machine()}"


def _installed(library: str) -> bool:
    return all(find_spec(name) is not None for name in _PACKAGES[library])


def _only_the_newest(engines: Path) -> None:
    """The engines that were not used for longest go."""
    kept = sorted(engines.glob("*/engine.json"), key=lambda file: file.parent.stat().st_mtime, reverse=True)
    for old in kept[_KEPT:]:
        shutil.rmtree(old.parent, ignore_errors=True)
