"""The weights file: a network's tensors, the description they belong to, and a card of how they came to be.

A safetensors file with one metadata entry, `station`: a JSON object with `description` and `card`. One entry only, and sorted keys, so that
the same network gives the same bytes and the same SHA-256.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription


class WeightsError(Exception):
    """A weights file is missing, damaged or not one of ours; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """A network with its weights, in float32 on the CPU.

    Attributes:
        card: how the network came to be, as the training wrote it.
        sha256: of the very bytes the network was built from, 64 hex digits; empty for a network that is not in a file yet.
    """

    network: BilinearDVGG16
    description: NetworkDescription
    card: Mapping[str, object]
    sha256: str


def save(path: Path, network: BilinearDVGG16, card: Mapping[str, object]) -> str:
    """Writes the weights file and returns its SHA-256: afterwards the whole file is on the disk, or the old one still is.

    Args:
        card: what JSON can hold.

    Raises:
        OSError: the folder is not there or cannot be written to.
    """
    metadata = json.dumps({"description": asdict(network.description), "card": card}, sort_keys=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    data = safetensors.torch.save(tensors, {"station": metadata})
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
    return hashlib.sha256(data).hexdigest()


def load(path: Path) -> LoadedWeights:
    """The network of a weights file, built from the very bytes whose SHA-256 it carries.

    Raises:
        WeightsError: the file is missing, cut short, not one of ours, or its tensors do not fit its description.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}; bring the file there or correct the recipe") from error
    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path}: is cut short or no safetensors file ({error}); copy it again") from error
    description, card = _read_metadata(path, data)
    with torch.device("meta"):
        network = BilinearDVGG16(description)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: its tensors do not fit its description: {error}") from error
    return LoadedWeights(network.requires_grad_(False).eval(), description, card, hashlib.sha256(data).hexdigest())


def _read_metadata(path: Path, data: bytes) -> tuple[NetworkDescription, Mapping[str, object]]:
    """The description and the card from a safetensors file's header: 8 bytes of its length, little-endian, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    try:
        station = json.loads(header["__metadata__"]["station"])
        described, card = station["description"], station["card"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: holds no description of a network; it was not written by `station train`") from error
    try:
        return NetworkDescription(**_tuples(described)), card
    except (TypeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(NetworkDescription))
        raise WeightsError(f"{path}: description: {error}; it must hold {known}") from error


def _tuples(described: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists where the description has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in described.items()}
