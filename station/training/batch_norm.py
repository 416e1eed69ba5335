"""Batch normalisation for the time of a training from scratch: without it a plain VGG16 with random weights does not leave the start.

`insert` puts it behind every convolution, `fold` takes it out again into the convolutions' own weights: the saved network is the paper's.
"""

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Normalised(nn.Module):
    """A convolution whose output is normalised."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, D, h, w)."""
        normalised: Tensor = self.norm(self.convolution(x))
        return normalised


def insert(network: nn.Module) -> None:
    """Normalises the output of every convolution of the network, in place; it is in training mode afterwards."""
    for parent, name, child in _children(network):
        if isinstance(child, nn.Conv2d):
            setattr(parent, name, Normalised(child))
    network.train()


def fold(network: nn.Module) -> None:
    """Undoes `insert`, in place: the convolutions alone compute what they and their normalisation did, by the averages met in training."""
    network.eval()
    for parent, name, child in _children(network):
        if isinstance(child, Normalised):
            setattr(parent, name, fuse_conv_bn_eval(child.convolution, child.norm))


def _children(network: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Every module with its parent and its name there, listed before anything is changed."""
    return [(parent, name, child) for parent in network.modules() for name, child in parent.named_children()]
