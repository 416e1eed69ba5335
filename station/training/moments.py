"""Second moments of feature maps: all that phase 1 ever needs of a picture, and exact.

While the four trunks are equal, each D-VGG16 is affine in their one output x(i): fA(i) = WA [x(i); 1], with the weights and biases of its
two 1x1 convolutions stacked in WA. Eq. 3 then reads

    phi = sum_i fA(i) fB(i)^T = WA M WB^T,    M = sum_i [x(i); 1] [x(i); 1]^T,

so the sum over positions is done once a picture and not once an epoch.
"""

import torch
from torch import Tensor, nn


def moments(maps: Tensor) -> Tensor:
    """M of each picture: (N, C, h, w) -> float32 or finer (N, C + 1, C + 1), symmetric; its last entry is the number of positions."""
    x = maps.to(torch.promote_types(maps.dtype, torch.float32)).flatten(2)  # (N, C, h*w)
    x = torch.cat([x, x.new_ones(len(x), 1, x.shape[2])], dim=1)
    return x @ x.transpose(1, 2)


def pool_moments(m: Tensor, a: nn.Linear, b: nn.Linear) -> Tensor:
    """Eq. 3 from moments: (N, C + 1, C + 1) -> phi (N, C', C'), rows belonging to a, whose C' x C weights act on every position."""
    return _affine(a) @ m @ _affine(b).T


def _affine(layer: nn.Linear) -> Tensor:
    """[weights | biases]: (C', C + 1)."""
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1)
