"""What the engines are compared with says the same: one network, four ways to its heat map, in float64."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from station.bench import peers
from station.bench.peers import PeerMissingError, autograd_head, literal_hooks, package
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription

SLIM = NetworkDescription(("good", "crack", "stain"), width=1 / 16, input_size=64)
each_network = pytest.mark.parametrize(("trunks", "head"), [(4, "signed_sqrt_l2"), (4, "none"), (1, "signed_sqrt_l2")])


def network(**changes: object) -> BilinearDVGG16:
    torch.manual_seed(3)
    made = BilinearDVGG16(replace(SLIM, **changes)).double()
    torch.nn.init.normal_(made.classifier.weight)
    return made.requires_grad_(False).eval()


def a_picture() -> Tensor:
    return torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def zero_to_one(heat: npt.NDArray[Any]) -> npt.NDArray[Any]:
    above = heat - heat.min()
    return np.asarray(above / above.max())


@each_network
@pytest.mark.parametrize("peer", [literal_hooks, autograd_head])
def test_a_heat_map_by_autograd_is_the_closed_forms(peer: Callable[[BilinearDVGG16], peers.Look], trunks: int, head: str) -> None:
    x = a_picture()
    logits, heat = network(trunks=trunks, head=head)(x)
    assert heat.max() > 0
    their_logits, their_heat = peer(network(trunks=trunks, head=head))(x)
    assert torch.allclose(their_logits, logits, rtol=1e-12)
    assert torch.allclose(their_heat, heat, rtol=1e-9, atol=1e-12 * float(heat.max()))
    assert not their_logits.requires_grad
    assert not their_heat.requires_grad


@pytest.fixture
def packaged() -> Callable[[BilinearDVGG16], peers.Look]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the package imports
        try:
            package(network())
        except PeerMissingError as error:
            pytest.skip(str(error))
    return package


@each_network
def test_the_packages_heat_map_is_the_closed_forms_stretched(packaged: Callable[..., peers.Look], trunks: int, head: str) -> None:
    x = a_picture()
    logits, heat = network(trunks=trunks, head=head)(x)
    their_logits, theirs = packaged(network(trunks=trunks, head=head))(x)
    stretched = zero_to_one(cv2.resize(zero_to_one(heat[0].numpy()).astype(np.float32), (64, 64)))  # the package's steps, in its order
    assert torch.allclose(their_logits, logits, rtol=1e-12)
    assert theirs.shape == (1, 64, 64)
    assert np.abs(theirs[0].numpy() - stretched).max() < 1e-5


def test_a_shared_trunk_that_stands_four_times_says_the_same(packaged: Callable[..., peers.Look]) -> None:
    x, shared = a_picture(), network(trunks=1)
    logits, heat = packaged(network(trunks=1))(x)
    of_four, theirs = peers.package_on_four_trunks(shared)(x)
    assert torch.allclose(of_four, logits, rtol=1e-12)
    assert torch.allclose(theirs, heat, atol=1e-6)


def test_a_peer_looks_again_and_says_the_same_and_leaves_no_hook() -> None:
    x, made = a_picture(), network()
    look = literal_hooks(made)
    first, second = look(x), look(x)
    assert torch.equal(first[1], second[1])
    assert not made.a._forward_hooks


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setattr(peers, "import_torchvision", missing)
    with pytest.raises(PeerMissingError, match=r"pip install station\[bench\]"):
        package(network())
