"""The weights file: a network's tensors, the description they belong to, a card of how they came to be, and golden pictures.

A safetensors file with one metadata entry, `station`: a JSON object with `description`, `card` and `golden`. Golden picture N is the PNG in
the uint8 tensor `golden.N`, and `golden` holds the probabilities it was given in training, a list a picture. One entry only, and sorted
keys, so that the same input gives the same bytes and the same SHA-256.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import BufferedReader
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription

GOLDEN_LIMIT = 4
"""A weights file holds at most so many golden pictures: each costs a frame's time whenever the network is loaded."""
_GOLDEN = "golden."
_METADATA = "__metadata__"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}
_CHUNK_BYTES = 1 << 20


class WeightsError(Exception):
    """A weights file is missing, damaged or not one of ours; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class Golden:
    """A picture and what the network said of it when it was trained.

    Attributes:
        rgb: uint8 (S, S, 3), R G B, at the network's own size.
        probabilities: float32 (K,), in the description's class order.
    """

    rgb: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """A network with its weights, in float32 on the CPU.

    Attributes:
        card: how the network came to be, as the training wrote it.
        sha256: of the very bytes the network was built from, 64 hex digits; empty for a network that is not in a file yet.
        golden: what `Engine` verifies the network by; empty when the file holds none.
    """

    network: BilinearDVGG16
    description: NetworkDescription
    card: Mapping[str, object]
    sha256: str
    golden: tuple[Golden, ...] = ()


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """A weights file without its tensors; attributes as of `LoadedWeights`."""

    path: Path
    description: NetworkDescription
    card: Mapping[str, object]
    sha256: str
    golden: tuple[Golden, ...]


def save(path: Path, network: BilinearDVGG16, card: Mapping[str, object], golden: Sequence[Golden]) -> str:
    """Writes the weights file and returns its SHA-256: afterwards the whole file is on the disk, or the old one still is.

    Args:
        card: what JSON can hold.
        golden: at most `GOLDEN_LIMIT` pictures; without any no recipe can run with the file.

    Raises:
        ValueError: there are too many golden pictures, or one does not fit the network.
        OSError: the folder is not there or cannot be written to.
    """
    if len(golden) > GOLDEN_LIMIT:
        raise ValueError(f"golden: {len(golden)} pictures are more than {GOLDEN_LIMIT}")
    for one in golden:
        _check_golden(one, network.description)
    scores = [[float(probability) for probability in one.probabilities] for one in golden]
    metadata = json.dumps({"description": asdict(network.description), "card": card, "golden": scores}, sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors |= {f"{_GOLDEN}{number}": _png(one.rgb) for number, one in enumerate(golden)}
    data = safetensors.torch.save(tensors, {"station": metadata})
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file: afterwards the whole of it is on the disk, or the old one still is.

    Raises:
        OSError: the folder is not there or cannot be written to.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> LoadedWeights:
    """The network of a weights file, built from the very bytes whose SHA-256 it carries; they are in memory only once.

    Raises:
        WeightsError: the file is missing, cut short, not one of ours, or its tensors do not fit its description.
    """
    file, network = _read(path, keep=True)
    return LoadedWeights(network, file.description, file.card, file.sha256, file.golden)


def read(path: Path) -> WeightsFile:
    """Everything of a weights file but its tensors, which are hashed on the way and not kept.

    Raises:
        WeightsError: as `load`.
    """
    return _read(path, keep=False)[0]


def _read(path: Path, *, keep: bool) -> tuple[WeightsFile, BilinearDVGG16]:
    """A weights file and its network: each tensor in memory of its own, so that none keeps the others, or without `keep` on `meta`."""
    tensors: dict[str, Tensor] = {}
    pictures: dict[str, Tensor] = {}
    try:
        with path.open("rb") as opened:
            file = _HashedFile(opened)
            header, layout = _header(file)
            description, card, scores = _metadata(path, header)
            for name, dtype, shape, size in layout:
                if name.startswith(_GOLDEN):
                    pictures[name] = file.take(size).view(dtype).reshape(shape)
                elif keep:
                    tensors[name] = file.take(size).view(dtype).reshape(shape).float()
                else:
                    file.skip(size)
                    tensors[name] = torch.empty(shape, device="meta")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}; bring the file there or correct the recipe") from error
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{path}: is cut short or no safetensors file ({error}); copy it again") from error
    network = _network(path, description, tensors)
    try:
        golden = _golden(dict(sorted(pictures.items())), scores, description)
    except ValueError as error:
        raise WeightsError(f"{path}: its golden pictures are damaged: {error}; copy the file again") from error
    return WeightsFile(path, description, card, file.sha256(), golden), network


def _network(path: Path, description: NetworkDescription, tensors: Mapping[str, Tensor]) -> BilinearDVGG16:
    """The network that is these tensors."""
    with torch.device("meta"):
        network = BilinearDVGG16(description)
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: its tensors do not fit its description: {error}") from error
    return network.requires_grad_(False).eval()


class _HashedFile:
    """A file that is read once, from its start to its end, and hashed on the way."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._passing = memoryview(bytearray(_CHUNK_BYTES))
        self.left = os.fstat(file.fileno()).st_size

    def take(self, size: int) -> Tensor:
        """The next bytes: uint8 (size,).

        Raises:
            ValueError: the file has fewer.
        """
        if not 0 <= size <= self.left:
            raise ValueError(f"{size} bytes are missing, {self.left} are left")
        data = torch.empty(size, dtype=torch.uint8)
        self._fill(data.numpy().data)
        return data

    def skip(self, size: int) -> None:
        """Hashes the next bytes without holding more than a few of them at a time."""
        for start in range(0, size, len(self._passing)):
            self._fill(self._passing[: size - start])

    def _fill(self, data: memoryview) -> None:
        if self._file.readinto(data) != len(data):
            raise ValueError("it was cut while it was read")
        self._digest.update(data)
        self.left -= len(data)

    def sha256(self) -> str:
        """Of what was read, 64 hex digits."""
        return self._digest.hexdigest()


def _header(file: _HashedFile) -> tuple[dict[str, Any], list[tuple[str, torch.dtype, list[int], int]]]:
    """A safetensors file's header (8 bytes of its length, then JSON), and name, dtype, shape and bytes of each tensor, in their order.

    Raises:
        ValueError, TypeError, KeyError: the file is damaged: the tensors do not fill what is left of it exactly, without gap or overlap.
    """
    header = json.loads(file.take(int.from_bytes(file.take(8).numpy().tobytes(), "little")).numpy().tobytes())
    if not isinstance(header, dict):
        raise TypeError("its header is no JSON object")
    tensors = [
        (entry["data_offsets"], name, _DTYPES[entry["dtype"]], entry["shape"]) for name, entry in header.items() if name != _METADATA
    ]
    layout, at = [], 0
    for (begin, end), name, dtype, shape in sorted(tensors, key=lambda tensor: tensor[0]):
        if begin != at or end - begin != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError(f"{name} is not where its header says")
        layout.append((name, dtype, shape, end - begin))
        at = end
    if at != file.left:
        raise ValueError(f"its header names {at} bytes of tensors, there are {file.left}")
    return header, layout


def _metadata(path: Path, header: Mapping[str, Any]) -> tuple[NetworkDescription, Mapping[str, object], Any]:
    """Description, card and golden scores from a safetensors file's header."""
    try:
        station = json.loads(header[_METADATA]["station"])
        described, card = station["description"], station["card"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: holds no description of a network; it was not written by `station train`") from error
    try:
        return NetworkDescription(**_tuples(described)), card, station.get("golden", [])
    except (TypeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(NetworkDescription))
        raise WeightsError(f"{path}: description: {error}; it must hold {known}") from error


def _golden(pictures: Mapping[str, Tensor], scores: Any, description: NetworkDescription) -> tuple[Golden, ...]:
    """The golden pictures with their scores.

    Raises:
        ValueError: pictures and scores do not belong together, or do not fit the description.
    """
    if not isinstance(scores, list) or len(scores) > GOLDEN_LIMIT:
        raise ValueError(f"golden must be a list of at most {GOLDEN_LIMIT}")
    if list(pictures) != [f"{_GOLDEN}{number}" for number in range(len(scores))]:
        raise ValueError(f"scores of {len(scores)} pictures, but the pictures {', '.join(pictures) or '(none)'}")
    found = []
    for (name, png), probabilities in zip(pictures.items(), scores, strict=True):
        try:
            one = Golden(_rgb(png), np.array(probabilities, dtype=np.float32))
            _check_golden(one, description)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error
        found.append(one)
    return tuple(found)


def _check_golden(one: Golden, description: NetworkDescription) -> None:
    size = description.input_size
    if one.rgb.dtype != np.uint8 or one.rgb.shape != (size, size, 3):
        raise ValueError(f"the picture is {one.rgb.dtype} {one.rgb.shape}, it must be uint8 {(size, size, 3)}")
    p = one.probabilities
    if p.dtype != np.float32 or p.shape != (len(description.classes),) or not (p.min() >= 0 and abs(p.sum() - 1) < 1e-3):
        raise ValueError(f"the scores {p.tolist()} are no {len(description.classes)} float32 probabilities")


def _png(rgb: npt.NDArray[np.uint8]) -> Tensor:
    """RGB (S, S, 3) -> the bytes of its PNG, uint8 (n,)."""
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return torch.from_numpy(encoded.ravel())


def _rgb(png: Tensor) -> npt.NDArray[np.uint8]:
    """What `_png` was given."""
    readable = png.dtype == torch.uint8 and png.ndim == 1 and len(png)  # OpenCV has no words for anything else
    bgr = cv2.imdecode(png.numpy(), cv2.IMREAD_UNCHANGED) if readable else None
    if bgr is None:
        raise ValueError("is no whole PNG picture")
    return np.ascontiguousarray(bgr[..., ::-1])


def _tuples(described: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists where the description has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
