"""Labelled pictures at the network's size, in a file that the system keeps in memory as far as there is room."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from station.training.dataset import Sample, read_pictures
from station.vision.dvgg16 import NetworkDescription
from station.vision.preprocess import normalise, resized_rgb


class Pictures:
    """Pictures to train whole networks with, normalised a batch at a time.

    Attributes:
        labels: int64 (n,), on the device.
    """

    def __init__(self, samples: Sequence[Sample], description: NetworkDescription, folder: Path, device: torch.device) -> None:
        """Reads them all.

        Raises:
            ValueError: a picture cannot be read.
        """
        size = description.input_size
        self._description, self._device = description, device
        with tempfile.TemporaryFile(dir=folder) as file:  # its memory map outlives it
            self._rgb = np.memmap(file, np.uint8, "w+", shape=(len(samples), size, size, 3))
        for row, (pixels, pixel_format, _) in zip(self._rgb, read_pictures(samples), strict=True):
            row[:] = resized_rgb(pixels, pixel_format, size)
        self.labels = torch.tensor([sample.label for sample in samples], device=device)

    def batch(self, index: Tensor) -> Tensor:
        """The network's input of the pictures index (n,), as inspection makes it: float32 (n, 3, S, S), channels-last."""
        return normalise(self._rgb[index.numpy()], "RGB8", self._description).to(self._device)
