"""The engines that can take part, each opened from a weights file alone: no recipe, no cache of built engines, no golden pictures."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from station.vision import weights
from station.vision.dvgg16 import NetworkDescription
from station.vision.engine import EngineError, Precision, Runner
from station.vision.preprocess import Pixels
from station.vision.torch_cpu import TorchCpu

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contending:
    """An engine that there can be.

    Attributes:
        name: library, device and precision, as in recipes and reports.
        needs: what must be importable.
        open: makes it from a weights file; the folder, empty or not yet there, is for what it builds.
    """

    name: str
    device: str
    precision: Precision
    needs: tuple[str, ...]
    open: Callable[[Path, Path], Runner]


def contending(device: str, precision: Precision, library: str = "") -> list[Contending]:
    """Those that take part on "cpu" or "cuda", as far as they are installed here.

    First the one of the precision that is asked for, of this library where several compute so, then those of fp32.

    Raises:
        EngineError: there is none of that precision.
    """
    here = [engine for engine in ENGINES if engine.device == device and all(find_spec(name) for name in engine.needs)]
    asked = sorted((engine for engine in here if engine.precision == precision), key=lambda engine: not engine.name.startswith(library))
    if not asked:
        needs = ": it needs OpenVINO, pip install station[openvino]" if (device, precision) == ("cpu", "int8") else ""
        raise EngineError(f"precision: no engine computes {precision} on {device} here{needs}")
    return [*asked, *(engine for engine in here if engine.precision == "fp32" and engine not in asked)]


def picture(shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A soft pattern without meaning, grey or a mosaic, the same every time: uint8 of that shape."""
    coarse = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def in_its_own_process(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns, computed where it leaves no memory behind, and what it prints is no part of the report."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_print_to_stderr) as pool:
        return pool.submit(work, *arguments).result()


def _torch_cpu(file: Path, _folder: Path) -> Runner:
    return TorchCpu(weights.load(file).network)


def _cuda(precision: Literal["fp32", "fp16", "bf16"]) -> Callable[[Path, Path], Runner]:
    def opened(file: Path, _folder: Path) -> Runner:
        from station.vision.cuda import Cuda  # noqa: PLC0415  only where there is a CUDA device

        return Cuda(weights.load(file).network, precision)

    return opened


def _openvino(precision: Literal["fp32", "int8"]) -> Callable[[Path, Path], Runner]:
    def opened(file: Path, folder: Path) -> Runner:
        from station.vision.openvino_cpu import OpenVinoCpu  # noqa: PLC0415  an optional extra

        folder.mkdir(parents=True)
        return OpenVinoCpu(folder, in_its_own_process(_build_openvino, file, precision, folder))

    return opened


def _build_openvino(file: Path, precision: Literal["fp32", "int8"], folder: Path) -> NetworkDescription:
    from station.vision import openvino_cpu  # noqa: PLC0415  an optional extra

    loaded = weights.load(file)
    side = loaded.description.input_size
    pictures: list[tuple[Pixels, str]] = [(one.rgb, "RGB8") for one in loaded.golden]
    openvino_cpu.build(loaded.network, precision, pictures or [(picture((side, side)), "Mono8")], folder)
    return loaded.description


def _print_to_stderr() -> None:
    """What the builders print is no part of the report."""
    os.dup2(2, 1)


ENGINES = (
    Contending("torch-cpu-fp32", "cpu", "fp32", (), _torch_cpu),
    Contending("openvino-cpu-fp32", "cpu", "fp32", ("openvino",), _openvino("fp32")),
    Contending("openvino-cpu-int8", "cpu", "int8", ("openvino", "nncf"), _openvino("int8")),
    Contending("torch-cuda-fp16", "cuda", "fp16", (), _cuda("fp16")),
    Contending("torch-cuda-bf16", "cuda", "bf16", (), _cuda("bf16")),
    Contending("torch-cuda-fp32", "cuda", "fp32", (), _cuda("fp32")),
)
