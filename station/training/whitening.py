"""Phase 1 in whitened coordinates: the same network, described by numbers that Adam can work with.

A trunk's channels differ in size by orders of magnitude, and what all pictures share is a hundred times what tells them apart; trained on
them as they are, the 1x1 convolutions and the classifier stay for dozens of epochs at guessing the commonest class. So they are trained on
the trunk's output along its strongest principal directions, each scaled to unit variance, and folded into convolutions on the trunk's own
channels afterwards, as batch normalisation is. The paper leaves the first values of these convolutions open, and how Adam sees them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from station.vision.dvgg16 import DVGG16

DIRECTIONS = 128
"""Principal directions that are kept; the others hold less than a thousandth of the output's variance."""
_FLOOR = 1e-3
"""Share of the largest variance that is added to all, so that weak directions are not blown up to the size of strong ones."""
SHARE_WITH_MEAN = 1 / 8
"""Of B's channels: Grad-CAM weighs fA with the mean of fB (Eq. 4) and points at nothing without one; in all channels it costs accuracy."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """The map from a trunk's output to its whitened coordinates.

    Attributes:
        matrix: float64 (r, C).
        mean: float64 (C,), the output's, which becomes 0.
    """

    matrix: Tensor
    mean: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> "Whitening":
        """By the second moments (C + 1, C + 1), float64, over all positions of the training pictures; see `moments`."""
        positions = moments[-1, -1]
        mean = moments[:-1, -1] / positions
        variances, directions = torch.linalg.eigh(moments[:-1, :-1] / positions - mean.outer(mean))
        strongest = directions[:, -DIRECTIONS:] / (variances[-DIRECTIONS:].clamp(min=0) + _FLOOR * variances[-1]).sqrt()
        return cls(strongest.T, mean)

    def __call__(self, outputs: Tensor) -> Tensor:
        """Outputs (N, C, h, w) -> float32 or finer (N, r, h, w)."""
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return torch.einsum("rc,nchw->nrhw", self.matrix.to(outputs), outputs - self.mean.to(outputs)[:, None, None])

    def start(self, outputs: int, generator: torch.Generator, share_with_mean: float = 0.0) -> nn.Linear:
        """One D-VGG16's two 1x1 convolutions on whitened coordinates, stacked: random directions of unit length.

        Args:
            share_with_mean: of the outputs, which keep the trunk's mean, doubled; that of the others is 0.
        """
        directions = self.matrix.shape[0]
        whitened = nn.Linear(directions, outputs)
        weight = torch.randn(outputs, directions, generator=generator, dtype=torch.float64) / directions**0.5
        bias = 2 * weight @ self.matrix @ self.mean
        bias[round(outputs * share_with_mean) :] = 0
        whitened.load_state_dict({"weight": weight, "bias": bias})
        return whitened

    def fold(self, whitened: nn.Linear, d: DVGG16) -> None:
        """Gives `d` the convolutions that make of the trunk's output what `whitened` makes of its whitened coordinates."""
        weight = whitened.weight.detach().cpu().double() @ self.matrix
        bias = whitened.bias.detach().cpu().double() - weight @ self.mean
        for convolution, rows, offsets in zip(d.convolutions(), weight.chunk(2), bias.chunk(2), strict=True):
            convolution.load_state_dict({"weight": rows[:, :, None, None], "bias": offsets})
