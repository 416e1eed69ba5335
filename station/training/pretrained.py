"""VGG16's trunk to start from: torchvision's ImageNet weights, or a file with the same keys."""

import hashlib
import importlib.util
import re
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from station.vision.dvgg16 import NetworkDescription, vgg16_trunk
from station.vision.weights import WeightsError

_KEY = re.compile(r"(?:features\.)?(\d+\.(?:weight|bias))")


def load_trunk(source: str) -> dict[str, Tensor]:
    """A state dict that fits `dvgg16.vgg16_trunk` at width 1.0, float32.

    Args:
        source: "imagenet" for torchvision's `VGG16_Weights.IMAGENET1K_V1`, downloaded once; or a .safetensors, .pth or .pt file with
            torchvision's keys, `features.N.weight` or `N.weight`, whatever else it holds.

    Raises:
        WeightsError: the file is missing, unreadable or no VGG16; or ImageNet's is damaged, or not here and cannot be downloaded.
    """
    tensors = _imagenet() if source == "imagenet" else _read(Path(source))
    named = ((_KEY.fullmatch(key), tensor) for key, tensor in tensors.items())
    trunk = {match.group(1): tensor.float() for match, tensor in named if match}
    with torch.device("meta"):
        expected = vgg16_trunk(NetworkDescription(("a", "b"))).state_dict()
    for key, tensor in expected.items():
        if key not in trunk or trunk[key].shape != tensor.shape:
            got = tuple(trunk[key].shape) if key in trunk else "nothing"
            raise WeightsError(f"{source}: no VGG16 trunk: features.{key} should be {tuple(tensor.shape)}, it holds {got}")
    return {key: trunk[key] for key in expected}


def trunk_sha256(trunk: dict[str, Tensor]) -> str:
    """Which trunk this is, whatever file it came from: SHA-256 over its keys in order, each with its values as float32."""
    digest = hashlib.sha256()
    for key in sorted(trunk):
        digest.update(key.encode())
        digest.update(trunk[key].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def imagenet_file() -> Path:
    """Where torchvision keeps ImageNet's weights on this machine, and looks for them before it downloads them.

    Raises:
        WeightsError: torchvision is not installed.
    """
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(_published().url).name


def is_imagenet(path: Path) -> bool:
    """Whether this is the file that torchvision publishes, whose name ends with the first digits of its SHA-256.

    Raises:
        WeightsError: torchvision is not installed.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(imagenet_file().stem.rpartition("-")[2])


def _published() -> Any:
    return import_torchvision().models.VGG16_Weights.IMAGENET1K_V1


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give a VGG16 state dict (.safetensors, .pth), `imagenet`, or `none`")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the two readers
        raise WeightsError(f"{path}: cannot be read as a state dict: {error}") from error
    if not (isinstance(loaded, dict) and all(isinstance(tensor, Tensor) for tensor in loaded.values())):
        raise WeightsError(f"{path}: is no state dict (names to tensors); save the network's `state_dict()`")
    return loaded


def _imagenet() -> dict[str, Tensor]:
    published, place = _published(), imagenet_file()
    if place.is_file() and not is_imagenet(place):
        raise WeightsError(f"{place}: is damaged or another file than {published.url}; delete it, then fetch it again or bring it there")
    try:
        with redirect_stdout(sys.stderr):  # torch.hub announces a download where a report may be read
            tensors: dict[str, Tensor] = published.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"imagenet: cannot be downloaded here ({error}); on a machine with internet fetch {published.url} and bring it to {place}, "
            "or give the file itself in place of `imagenet`"
        ) from error
    return tensors


def import_torchvision() -> Any:
    """The module torchvision, also beside a torch without CUDA.

    Beside the CPU-only torch the operators of torchvision's CUDA wheel do not load, and the import fails on `nms` and `qnms`, which it
    describes without having them. Declaring the two first lets it import; calling them still raises.

    Raises:
        WeightsError: torchvision is not installed.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise WeightsError("imagenet: needs torchvision, which is not installed: run make setup; or give a file in place of it")
    if not hasattr(torch.ops.torchvision, "nms"):
        try:
            torch.ops.load_library(Path(found.origin).with_name("_C.so"))  # type: ignore[no-untyped-call]
        except OSError:
            _declare_operators()
    return importlib.import_module("torchvision")


@cache
def _declare_operators() -> torch.library.Library:
    """The declarations live as long as what is returned, so the cache keeps it."""
    operators = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return operators
