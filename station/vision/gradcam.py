"""Grad-CAM (Eq. 4-5) on the output of D-VGG16 A, in closed form: no backward pass, no hooks, no autograd.

A class score y depends on fA only through phi = sum_i fA(i) fB(i)^T (Eq. 2-3). With G = dy/dphi the chain rule gives
dy/dfA(i) = G fB(i), and its mean over positions, Eq. 4, is G times the mean of fB: one matrix-vector product. G is the class's own weight
matrix for the head `none` and `dvgg16.signed_sqrt_l2_gradient` for the head `signed_sqrt_l2`.
"""

import torch
from torch import Tensor


def heat_map(f_a: Tensor, f_b: Tensor, gradient: Tensor) -> Tensor:
    """The class activation map (N, h, w) >= 0, unscaled, at the resolution of the features.

    Which of the two D-VGG16s the paper maps is left open; it is A here.

    Args:
        f_a, f_b: (N, C, h, w), the outputs of D-VGG16 A and B.
        gradient: (N, C, C), dy/dphi of one class score a picture, rows belonging to A.
    """
    mean_b = f_b.mean(dim=(2, 3))  # (N, C)
    alpha = torch.einsum("ncd,nd->nc", gradient, mean_b)  # Eq. 4
    return torch.einsum("nc,nchw->nhw", alpha, f_a).relu()  # Eq. 5
