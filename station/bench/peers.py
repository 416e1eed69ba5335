"""What others do for class scores and a heat map: Grad-CAM (Eq. 4-5) at fA by autograd, on the very same network.

Each peer is a `Look`. They agree with `BilinearDVGG16.forward` up to a heat map's scale, which `tests/test_peers.py` proves in float64;
what they differ in is the work.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from station.training.pretrained import import_torchvision
from station.vision.dvgg16 import BilinearDVGG16, bilinear_pool
from station.vision.weights import WeightsError

Look = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A normalised picture (1, 3, S, S) -> logits (1, K) and the most probable class's heat map (1, h, w), at whatever resolution."""


class PeerMissingError(Exception):
    """The peer is not installed here; the message says what to install."""


def literal_hooks(network: BilinearDVGG16) -> Look:
    """Grad-CAM as scripts write it: a pass for the class, then one with a hook at fA, then a backward pass through all of the network."""
    network.requires_grad_(True)

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        class_index = int(network.logits(x).argmax())
        kept: dict[str, Tensor] = {}

        def keep_gradient(gradient: Tensor) -> None:
            kept["gradient"] = gradient

        def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kept["activation"] = output.detach()
            output.register_hook(keep_gradient)  # type: ignore[no-untyped-call]

        network.zero_grad()
        handle = network.a.register_forward_hook(keep)
        logits = network.logits(x)
        handle.remove()
        logits[0, class_index].backward()  # type: ignore[no-untyped-call]
        return logits.detach(), _weighted(kept["activation"], kept["gradient"])

    return look


def autograd_head(network: BilinearDVGG16) -> Look:
    """One pass, the trunks without a graph, and autograd from the class score back to fA alone: the best that autograd can do."""

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            f_a, f_b = network.features(x)
        f_a.requires_grad_(True)
        logits = network.classify(bilinear_pool(f_a, f_b))
        (gradient,) = torch.autograd.grad(logits[0, logits.argmax()], f_a)
        return logits.detach(), _weighted(f_a.detach(), gradient)

    return look


def package(network: BilinearDVGG16) -> Look:
    """The package `grad-cam`, as its manual says to use it, its target layer fA. Its heat map is as large as the picture, from 0 to 1.

    Raises:
        PeerMissingError: the package is not installed, or cannot be imported.
    """
    try:
        import_torchvision()
        from pytorch_grad_cam import GradCAM  # noqa: PLC0415  an optional extra
    except (ImportError, WeightsError) as error:
        raise PeerMissingError(f"the package grad-cam is not here ({error}): pip install station[bench]") from error
    cam = GradCAM(model=_Logits(network.requires_grad_(True)), target_layers=[network.a])

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        heat = torch.from_numpy(cam(input_tensor=x, targets=None))
        return cam.outputs.detach(), heat

    return look


def package_on_four_trunks(network: BilinearDVGG16) -> Look:
    """The package on the paper's network, where a shared trunk stands four times: the same numbers for those who do not share it.

    Raises:
        PeerMissingError: as `package`.
    """
    like = network.classifier.weight
    four = BilinearDVGG16(replace(network.description, trunks=4)).to(like.device, like.dtype).eval()
    four.load_state_dict(network.state_dict(), strict=False)
    for trunk in four.trunks:
        trunk.load_state_dict(network.trunks[0].state_dict())
    return package(four)


PEERS: tuple[tuple[str, Callable[[BilinearDVGG16], Look]], ...] = (
    ("grad-cam package", package),
    ("literal hooks", literal_hooks),
    ("autograd through the head", autograd_head),
)
ON_FOUR_TRUNKS = "grad-cam package, four trunks"


class _Logits(nn.Module):
    """The network as a plain classifier, which is what the package takes."""

    def __init__(self, network: BilinearDVGG16) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.logits(x)


def _weighted(activation: Tensor, gradient: Tensor) -> Tensor:
    """Eq. 4 and 5: (1, C, h, w) twice -> (1, h, w)."""
    alpha = gradient.mean(dim=(2, 3), keepdim=True)
    return (alpha * activation).sum(dim=1).relu()
