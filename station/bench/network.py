"""`python -m station.bench.network`: the engines of this machine against the peers, the floor and each other, in one run.

Needs torch, numpy, OpenCV and safetensors only: carried to a bare machine with a GPU it is the one command there. The package `grad-cam`
and OpenVINO take part where they are installed.
"""

import argparse
import json
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch

from station.bench import floor, report, timing
from station.bench.engines import Contending, contending, in_its_own_process, picture
from station.bench.peers import ON_FOUR_TRUNKS, PEERS, Look, PeerMissingError, package_on_four_trunks
from station.bench.report import Shown
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import EngineError, Precision, choose_device
from station.vision.preprocess import Pixels, preprocess

Answer = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Probabilities (K,) and a heat map (h, w), at whatever scale and resolution."""
CAMERAS = {"2048 x 2048 BayerRG8": ((2048, 2048), "BayerRG8"), "1280 x 1024 Mono8": ((1024, 1280), "Mono8")}
"""Shape of the pixels and PFNC pixel format of the two cameras; contenders are compared on the first."""
FRAMES = {"cpu": 10, "cuda": 2000}
ROUNDS = {"cpu": 3, "cuda": 20}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def measure(
    file: Path, device: str, precision: Precision, frames: int, words: str, seconds: float = 1.0, library: str = ""
) -> dict[str, Any]:
    """COMMANDS.md's document for the network in a weights file; `report.network_lines` says it in words.

    The engine runs first and alone, so that the memory it took is its own.

    Args:
        device: "cpu", "cuda" or "auto".
        frames: for the distribution of the engine's times.
        words: what network this is, for the reader.
        seconds: how long each candidate for the machine's peak is tried.
        library: whose engine is measured, where several compute in this precision.

    Raises:
        EngineError: there is no such device or engine here.
        WeightsError: the file cannot be read.
    """
    where = choose_device(device)
    engines = contending(where.type, precision, library)
    engine = engines[0]
    rounds = min(frames, ROUNDS[where.type])
    pictures = {name: (picture(shape), pixel_format) for name, (shape, pixel_format) in CAMERAS.items()}
    frame = next(iter(pictures.values()))
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="station-bench-") as folder:
        ours = engine.open(file, Path(folder) / engine.name)
        cameras = {name: _latency(partial(ours.run, *picture), frames) for name, picture in pictures.items()}
        memory = _memory_mb(file)
        contenders: list[tuple[str, Callable[[], Answer]]] = [(engine.name, partial(ours.run, *frame))]
        contenders += [(other.name, partial(other.open(file, Path(folder) / other.name).run, *frame)) for other in engines[1:]]
        for name, peer in PEERS if weights.read(file).description.trunks == 4 else (*PEERS, (ON_FOUR_TRUNKS, package_on_four_trunks)):
            try:
                contenders.append((name, _on_frames(peer, file, where, *frame)))
            except PeerMissingError as error:
                missing[name] = str(error)
        answers = {name: work() for name, work in contenders}  # which warms them up
        times = timing.interleaved(contenders, rounds)
    loaded = weights.load(file)
    description, trained = loaded.description, bool(loaded.golden)
    cost = _heat_map_cost(loaded.network, where, precision, rounds, frame)
    work, peak = floor.macs(description), floor.peak(where, DTYPES[precision], seconds) if precision in DTYPES else None
    floor_ms = peak.floor_ms(work) if peak else None
    first = next(iter(cameras.values()))
    shown = [
        *(_against(times, name, engine, description) for name, _ in contenders[1:]),
        Shown("class scores and heat map, to class scores alone", cost, at_most=1.03 if _is_full(description) else None),
        *_beside_the_floor(first["frame_ms"], floor_ms, engine, description),
    ]
    if memory and where.type == "cpu":
        shown.append(Shown("memory at most, the engine alone", memory["peak"], "MB", at_most=memory["allowed"]))
    return {
        "device": _words(where),
        "engine": engine.name,
        "precision": precision,
        "frame_ms": first["frame_ms"],
        "frames_per_s": first["frames_per_s"],
        "peers": {
            name: {
                "p50": round(1e3 * median(times[name]), 3),
                "ratio": round(timing.ratio(times, name, engine.name), 4),
            }
            for name, _ in contenders[1:]
        },
        "floor_ms": round(floor_ms, 4) if floor_ms else None,
        "parity": {name: _parity(answers[engine.name], answers[name]) for name, _ in contenders[1:]},
        "shown": [one.document() for one in shown],
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "network": {"words": words, "trained": trained, "width": description.width, "input_size": description.input_size}
        | {"trunks": description.trunks, "head": description.head, "classes": len(description.classes)},
        "cameras": cameras,
        "floor": {"gmacs": round(work.total / 1e9, 3), "trunk_gmacs": round(work.trunks / 1e9, 3)}
        | {"macs_per_s": peak.macs_per_s if peak else None, "measured": report.rounded(peak.measured, 0) if peak else {}},
        "memory_mb": memory,
        "missing": missing,
    }


def untrained(description: NetworkDescription, folder: Path) -> Path:
    """A weights file with random numbers, the same ones every time."""
    torch.manual_seed(0)
    file = folder / "untrained.safetensors"
    weights.save(file, BilinearDVGG16(description), {}, [])
    return file


def _on_frames(
    peer: Callable[[BilinearDVGG16], Look], file: Path, device: torch.device, pixels: Pixels, pixel_format: str
) -> Callable[[], Answer]:
    """The peer on a network of its own, from a camera's pixels to numbers on the host, as the engines.

    Its picture is laid out channels first, as torchvision's `ToTensor` and the package's own `preprocess_image` give it. It shares the
    process with `TorchCpu`, whose allocator keeps its memory: it is faster here than in a script of its own.
    On CUDA it may take cuDNN's fastest algorithms and TF32, which torch allows its users and the station's engines do without.
    """
    network = weights.load(file).network.to(device)
    look = peer(network)

    def work() -> Answer:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            logits, heat = look(preprocess(pixels, pixel_format, network.description).contiguous().to(device))
        return logits[0].softmax(dim=0).cpu().numpy(), heat[0].cpu().numpy()

    return work


def _latency(work: Callable[[], object], frames: int) -> dict[str, Any]:
    """Of frames back to back, after two that do not count."""
    timing.repeated(work, 2)
    seconds = timing.repeated(work, frames)
    return {
        "frame_ms": report.rounded(timing.distribution_ms(seconds)),
        "frames_per_s": round(timing.per_second(seconds), 3),
        "frames": frames,
    }


def _heat_map_cost(network: BilinearDVGG16, device: torch.device, precision: Precision, rounds: int, frame: tuple[Pixels, str]) -> float:
    """How many times longer a forward pass with the heat map takes than one without, on torch, in the same precision if torch has it."""
    dtype = DTYPES.get(precision, torch.float32)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in (network.trunks, network.a, network.b):  # the head stays float32, as in the engines
        part.to(dtype)
    x = preprocess(*frame, network.description).to(device, dtype)

    def scores() -> object:
        with torch.inference_mode():
            return network.logits(x).cpu()

    def both() -> object:
        with torch.inference_mode():
            logits, heat = network(x)
            return logits.cpu(), heat.cpu()

    both()
    scores()
    return timing.ratio(timing.interleaved([("both", both), ("scores", scores)], 2 * rounds), "both", "scores")


def _is_full(description: NetworkDescription) -> bool:
    """Whether it is the paper's width and size, for which the limits were set."""
    return (description.width, description.input_size) == (1.0, 448)


def _against(times: timing.Times, name: str, ours: Contending, description: NetworkDescription) -> Shown:
    """How many times faster the engine is; what is wanted holds against the package on the paper's four trunks."""
    wanted = None
    if name == (ON_FOUR_TRUNKS if description.trunks == 1 else "grad-cam package") and _is_full(description):
        if ours.device == "cuda":
            wanted = 20.0
        elif ours.precision == "int8":
            wanted = 12.0 if description.trunks == 4 else 40.0
        elif description.trunks == 4:
            wanted = 3.0
    return Shown(f"times faster than {name}", timing.ratio(times, name, ours.name), at_least=wanted)


def _beside_the_floor(frame_ms: dict[str, float], floor_ms: float | None, ours: Contending, description: NetworkDescription) -> list[Shown]:
    shown = []
    whole = _is_full(description) and description.trunks == 4
    if floor_ms:
        limit = 1.35 if ours.precision == "fp32" and ours.device == "cpu" and whole else None
        shown.append(Shown("whole frame p50 to the measured floor", frame_ms["p50"] / floor_ms, at_most=limit))
    cuda = ours.device == "cuda" and whole
    shown.append(Shown("whole frame p99.9 to p50", frame_ms["p999"] / frame_ms["p50"], at_most=1.5 if cuda else None))
    if cuda:
        shown.append(Shown("whole frame p50", frame_ms["p50"], "ms", at_most=4.0))
    return shown


def _parity(ours: Answer, theirs: Answer) -> dict[str, float]:
    """How near two answers to the same picture are; heat maps up to scale and offset, at the larger one's resolution."""
    (probabilities, heat), (their_probabilities, their_heat) = ours, theirs
    if heat.shape != their_heat.shape:
        heat = np.asarray(cv2.resize(heat, their_heat.shape[::-1]), dtype=np.float32)
    flat = heat.std() == 0 or their_heat.std() == 0
    return {
        "probability": float(np.abs(probabilities - their_probabilities).max()),
        "heat_map": float(np.array_equal(heat, their_heat)) if flat else float(np.corrcoef(heat.ravel(), their_heat.ravel())[0, 1]),
    }


def _memory_mb(file: Path) -> dict[str, float]:
    """The most that this process ever held, what its weights are, and what it may hold; empty where the system does not say."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii")) if status.is_file() else None
    size = file.stat().st_size / 1e6
    return {"weights": round(size, 1), "peak": round(int(found[1]) * 1.024e-3, 1), "allowed": round(1.5 * size + 600, 1)} if found else {}


def _words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE) if info.is_file() else None
    return f"cpu, {found[1] if found else platform.machine()}"


def main(words: Sequence[str] | None = None) -> int:
    """The command; 2 where it cannot run as asked."""
    parser = argparse.ArgumentParser(prog="python -m station.bench.network", description="engines against peers, floor and each other")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), help="default: fp32 on the CPU, fp16 on CUDA")
    parser.add_argument("--width", type=float, default=1.0, help="of an untrained network (default 1.0, the paper's)")
    parser.add_argument("--size", type=int, default=448, help="pixels a side of its input (default 448)")
    parser.add_argument("--trunks", type=int, choices=(1, 4), default=4)
    parser.add_argument("--weights", type=Path, help="a trained network's file in place of an untrained one")
    parser.add_argument("--frames", type=int, help=f"for the distribution (default {FRAMES['cpu']}, on CUDA {FRAMES['cuda']})")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(words)
    try:
        device = choose_device(arguments.device).type
        precision: Precision = arguments.precision or ("fp16" if device == "cuda" else "fp32")
        frames = arguments.frames or FRAMES[device]
        with tempfile.TemporaryDirectory(prefix="station-bench-") as folder:
            file, said = arguments.weights, f"the network of {arguments.weights}"
            if file is None:
                description = NetworkDescription(("good", "defect"), arguments.width, arguments.size, arguments.trunks)
                file = in_its_own_process(untrained, description, Path(folder))
                said = f"an untrained network, trunks: {arguments.trunks}, width {arguments.width:g}, {arguments.size} x {arguments.size}"
            document = measure(file, device, precision, frames, said)
    except (EngineError, weights.WeightsError, ValueError) as error:
        print(f"station.bench.network: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document) if arguments.json else report.network_lines(document), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
