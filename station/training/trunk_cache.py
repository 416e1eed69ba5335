"""Outputs of a held trunk, once a picture, kept on disk as float16 by the hashes of trunk, picture and preprocessing, up to a limit."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from station.training.dataset import DatasetError, Sample, read_pictures
from station.training.pretrained import trunk_sha256
from station.vision import preprocess as preprocess_module
from station.vision.dvgg16 import NetworkDescription
from station.vision.preprocess import preprocess

LIMIT_BYTES = 20 * 2**30
"""Of all caches in a folder together: 25,000 pictures at 448 x 448."""
_HEADER_BYTES = 128
"""Of a small array in NPY's format, version 1.0."""

Output = npt.NDArray[np.float16]


class TrunkCache:
    """The outputs of one trunk at one input size and normalisation; others may share its folder and its limit.

    Attributes:
        device: where the trunk is.
        passes: pictures that went through the trunk so far; one that is found on disk costs none.
    """

    def __init__(
        self, folder: Path, trunk: nn.Module, description: NetworkDescription, device: torch.device, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        """Takes over the files that are there already; `trunk` stays where it is, on `device`."""
        self.passes = 0
        self._folder = folder
        self._trunk = trunk
        self._description = description
        self.device = device
        self._limit_bytes = limit_bytes
        described = f"{trunk_sha256(trunk.state_dict())} {description.input_size} {description.mean} {description.std}"
        code = Path(preprocess_module.__file__).read_bytes() + f"{torch.__version__} {device.type}".encode()
        self._own = folder / hashlib.sha256(described.encode() + code).hexdigest()[:16]
        self._own.mkdir(parents=True, exist_ok=True)
        self._bytes = sum(size for _, size, _ in self._files())

    def outputs(self, samples: Sequence[Sample]) -> Iterator[Tensor]:
        """The trunk's output of each sample in turn: float16 (512 width, S/16, S/16) on the CPU, the same bits whether cached or not.

        Raises:
            ValueError: a picture cannot be read.
            DatasetError: an output is beyond float16's range.
        """
        for sample in samples:
            file = self._own / f"{sample.sha256}.npy"
            output = _read(file)
            if output is None:
                output = self._pass(sample)
                self._keep(file, output)
            yield torch.from_numpy(output)

    def _pass(self, sample: Sample) -> Output:
        ((pixels, pixel_format, _),) = read_pictures([sample])
        picture = preprocess(pixels, pixel_format, self._description).to(self.device)
        with torch.inference_mode():
            output: Output = self._trunk(picture)[0].half().cpu().contiguous().numpy()
        self.passes += 1
        if not np.isfinite(output).all():
            raise DatasetError(f"{sample.path}: the pretrained trunk makes numbers beyond 65,504 of it; use another trunk")
        return output

    def _keep(self, file: Path, output: Output) -> None:
        size = output.nbytes + _HEADER_BYTES
        if self._bytes + size > self._limit_bytes:
            self._give_up_oldest(self._limit_bytes - size)
        unfinished = file.with_suffix(f".{os.getpid()}")
        with unfinished.open("wb") as stream:
            np.save(stream, output)
        unfinished.replace(file)
        self._bytes += size

    def _give_up_oldest(self, allowed_bytes: int) -> None:
        """Deletes what was not used for longest until nine tenths of the allowed are left, so that it is not looked for each time."""
        files = sorted(self._files(), reverse=True)
        self._bytes = sum(size for _, size, _ in files)
        while files and self._bytes > allowed_bytes * 0.9:
            _, size, file = files.pop()
            file.unlink(missing_ok=True)
            self._bytes -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """When each file was last used, ns, its bytes, and it; another process may delete some meanwhile."""
        for file in self._folder.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                status = file.stat()
                yield status.st_mtime_ns, status.st_size, file


def _read(file: Path) -> Output | None:
    """The array in `file`, marked as used just now; None where there is none, or one that a lost power supply cut short."""
    try:
        array: Output = np.load(file)
        os.utime(file)
    except (OSError, ValueError, EOFError):
        return None
    return array
