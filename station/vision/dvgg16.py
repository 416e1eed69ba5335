"""The D-VGG16 bilinear network (sec. 2.1, Eq. 1-3), whole: description, trunks, pooling, head, class scores and heat map.

Readings and departures, since the paper leaves them open:
- VGG16 is cut after conv5_3's ReLU, before the last max-pool: 28 x 28 positions at 448 x 448.
- Nothing follows the 1x1 convolutions: the paper names no activation there.
- The sum over positions is Eq. 3's sum, not a mean.
- Signed square root and L2 norm of phi are not in the paper but standard in bilinear CNNs: the head `signed_sqrt_l2`. It trained faster and
  better than the paper's plain head in every trial, so it is the default; `none` is the paper's.
- One trunk in place of four is what phase 1 of the training yields, where all four hold the same weights.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from station.vision import gradcam

Head = Literal["none", "signed_sqrt_l2"]

VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of VGG16's 3x3 convolutions; a max-pool stands between two blocks."""
REDUCED_CHANNELS = 256
"""Output channels of the 1x1 convolution behind each trunk (sec. 2.1.1)."""
STRIDE = 16
"""Pixels of the network's input a position of the features stands for, each way."""
EPSILON = 1.0
"""Rounds off the signed square root at 0, where its slope is infinite, and the L2 norm at 0, where it has no direction.

Half of a trained network's phi are beyond 10, a sum over 784 positions; what is below 1 is the noise of that sum. With a much smaller value
the slope there, up to 1 / sqrt(epsilon), makes the heat map a picture of this noise: relative noise of 1 % in the features took its
correlation to 0.85 at 1e-5, and to 0.998 at 1.0, where probabilities differ by less than 0.005.
"""


@dataclass(frozen=True)
class NetworkDescription:
    """Everything about a network but its numbers: with it, a weights file says how it is to be used.

    Attributes:
        classes: names in the order of the logits, at least two.
        width: factor on every channel count; 1.0 is the paper's network.
        input_size: pixels a side of the square input; a multiple of 16.
        trunks: 4 as in the paper, or 1 shared by all four branches.
        head: what becomes of phi before the linear layer.
        mean, std: of the input, R G B, for pixels scaled to 0..1.
        pretrained: where the trunks' first weights came from, in words; "none" for a random start.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    classes: tuple[str, ...]
    width: float = 1.0
    input_size: int = 448
    trunks: int = 4
    head: Head = "signed_sqrt_l2"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    pretrained: str = "none"

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2 or "" in self.classes:
            raise ValueError(f"classes: {list(self.classes)} must be at least two different names")
        if not 0 < self.width <= 4:
            raise ValueError(f"width: {self.width} must be above 0 and at most 4")
        if self.input_size < 2 * STRIDE or self.input_size % STRIDE:
            raise ValueError(f"input_size: {self.input_size} must be a multiple of {STRIDE}, at least {2 * STRIDE}")
        if self.trunks not in (1, 4):
            raise ValueError(f"trunks: {self.trunks} must be 1 or 4")
        if self.head not in get_args(Head):
            raise ValueError(f"head: {self.head!r} must be one of {', '.join(get_args(Head))}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std: {self.mean}, {self.std} must be three numbers each, std above 0")

    def channels(self, full: int) -> int:
        """The channel count that is `full` in the paper's network."""
        return max(1, round(full * self.width))


def vgg16_trunk(description: NetworkDescription) -> nn.Sequential:
    """VGG16's convolutions up to conv5_3's ReLU: (N, 3, S, S) -> (N, 512 width, S/16, S/16).

    Its layers are numbered as in torchvision's `vgg16().features[:30]`, so that its keys fit.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for block, outputs in enumerate(VGG16_BLOCKS):
        if block:
            layers.append(nn.MaxPool2d(2))
        for full in outputs:
            layers += [nn.Conv2d(inputs, description.channels(full), 3, padding=1), nn.ReLU(inplace=True)]
            inputs = description.channels(full)
    return nn.Sequential(*layers)


class DVGG16(nn.Module):
    """One D-VGG16 behind its two trunks: each trunk's output reduced by a 1x1 convolution, both concatenated."""

    def __init__(self, description: NetworkDescription) -> None:
        super().__init__()
        trunk, reduced = description.channels(512), description.channels(REDUCED_CHANNELS)
        self.reduce = nn.ModuleList(nn.Conv2d(trunk, reduced, 1) for _ in range(2))

    def convolutions(self) -> tuple[nn.Conv2d, ...]:
        """The two 1x1 convolutions, in the order of their outputs."""
        return tuple(module for module in self.reduce if isinstance(module, nn.Conv2d))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two trunk outputs (N, 512 width, h, w) -> (N, 512 width, h, w)."""
        return torch.cat([self.reduce[0](first), self.reduce[1](second)], dim=1)


class BilinearDVGG16(nn.Module):
    """The bilinear model B = (fA, fB, P, F) of Eq. 1; F's soft-max is left to the caller, `logits` are what goes into it.

    A new network has He's initialisation in the trunks, so that it can be trained from scratch, and different random 1x1 convolutions,
    without which equal trunks would stay equal. Pooling and head are computed in float32 or better: phi leaves float16's range.
    """

    def __init__(self, description: NetworkDescription) -> None:
        super().__init__()
        self.description = description
        self.trunks = nn.ModuleList(vgg16_trunk(description) for _ in range(description.trunks))
        self.a = DVGG16(description)
        self.b = DVGG16(description)
        self.channels = 2 * description.channels(REDUCED_CHANNELS)
        self.classifier = nn.Linear(self.channels**2, len(description.classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there torch would import a second's worth of modules
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if module.kernel_size == (3, 3) else "linear")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures (N, 3, S, S) -> logits (N, K) and the heat map (N, S/16, S/16) >= 0 of each one's most probable class."""
        return self.see(*self.features(x))

    def see(self, f_a: Tensor, f_b: Tensor) -> tuple[Tensor, Tensor]:
        """fA and fB (N, C, h, w) -> logits (N, K) and heat maps (N, h, w), as `forward`."""
        phi = bilinear_pool(f_a, f_b)
        logits = self.classify(phi)
        gradient = self.score_gradient(phi, logits.argmax(dim=1))
        return logits, gradcam.heat_map(_head_precision(f_a), _head_precision(f_b), gradient)

    def logits(self, x: Tensor) -> Tensor:
        """Normalised pictures (N, 3, S, S) -> (N, K), differentiable: what training descends."""
        return self.classify(bilinear_pool(*self.features(x)))

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures (N, 3, S, S) -> fA and fB, (N, C, S/16, S/16) each with C = 512 width."""
        return self.reduce([trunk(x) for trunk in self.trunks])

    def reduce(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The outputs of the one or four trunks, (N, 512 width, h, w) each -> fA and fB, (N, C, h, w) each."""
        first, second, third, fourth = outputs if len(outputs) == 4 else outputs * 4
        return self.a(first, second), self.b(third, fourth)

    def classify(self, phi: Tensor) -> Tensor:
        """phi (N, C, C) -> logits (N, K)."""
        z = signed_sqrt_l2(phi) if self.description.head == "signed_sqrt_l2" else phi
        logits: Tensor = self.classifier(z.flatten(1))  # (N, C, C) -> (N, C*C)
        return logits

    def score_gradient(self, phi: Tensor, class_index: Tensor) -> Tensor:
        """dy/dphi (N, C, C) of the logits that class_index (N,) chooses, in closed form."""
        weight = self.classifier.weight[class_index].reshape(phi.shape)  # (N, C*C) -> (N, C, C)
        return signed_sqrt_l2_gradient(weight, phi) if self.description.head == "signed_sqrt_l2" else weight


def bilinear_pool(f_a: Tensor, f_b: Tensor) -> Tensor:
    """phi = sum over positions of fA(i) fB(i)^T (Eq. 2-3): (N, C, h, w) twice -> (N, C, C), rows belonging to A, float32 or better."""
    a, b = _head_precision(f_a).flatten(2), _head_precision(f_b).flatten(2)  # (N, C, h, w) -> (N, C, h*w)
    return a @ b.transpose(1, 2)


def signed_sqrt_l2(phi: Tensor) -> Tensor:
    """u = z / |z| with z = phi / sqrt(|phi| + epsilon): (N, C, C) -> (N, C, C) of length 1 a picture.

    z is sign(phi) sqrt(|phi|) but for |phi| near epsilon, where it stays differentiable: its slope ends at 1 / sqrt(epsilon) in place of
    infinity, so that training is stable and `signed_sqrt_l2_gradient` is exact.
    """
    z = phi * (phi.abs() + EPSILON).rsqrt()
    return z / _length(z)


def signed_sqrt_l2_gradient(weight: Tensor, phi: Tensor) -> Tensor:
    """d<weight, u>/dphi for u = signed_sqrt_l2(phi): (N, C, C) twice -> (N, C, C).

    With n = |z|: (weight - u <weight, u>) / n for the norm, times dz/dphi = (|phi| + 2 epsilon) / (2 (|phi| + epsilon)^1.5).
    """
    size = phi.abs() + EPSILON
    z = phi * size.rsqrt()
    length = _length(z)
    u = z / length
    along = (weight * u).sum(dim=(1, 2), keepdim=True)
    return (weight - u * along) / length * (size + EPSILON) / (2 * size.pow(1.5))


def _length(z: Tensor) -> Tensor:
    """The L2 norm of each picture's z (N, C, C) -> (N, 1, 1), above 0."""
    return (z.square().sum(dim=(1, 2), keepdim=True) + EPSILON**2).sqrt()


def _head_precision(x: Tensor) -> Tensor:
    """x in float32, or as it is when it is finer."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
