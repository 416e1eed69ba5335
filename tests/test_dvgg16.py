from dataclasses import replace

import pytest
import torch

from station.vision.dvgg16 import (
    BilinearDVGG16,
    NetworkDescription,
    bilinear_pool,
    signed_sqrt_l2,
    signed_sqrt_l2_gradient,
    vgg16_trunk,
)

SLIM = NetworkDescription(("good", "crack", "stain"), width=1 / 16, input_size=64)


def slim(**changes: object) -> BilinearDVGG16:
    torch.manual_seed(0)
    return BilinearDVGG16(replace(SLIM, **changes))


def test_the_full_network_is_the_papers():
    with torch.device("meta"):
        network = BilinearDVGG16(NetworkDescription(("good", "crack")))
        f_a, f_b = network.features(torch.empty(1, 3, 448, 448))
        logits, heat = network(torch.empty(1, 3, 448, 448))
    assert f_a.shape == f_b.shape == (1, 512, 28, 28)
    assert logits.shape == (1, 2)
    assert heat.shape == (1, 28, 28)
    trunk = sum(parameter.numel() for parameter in network.trunks[0].parameters())
    assert trunk == 14_714_688  # VGG16's convolutions
    assert sum(parameter.numel() for parameter in network.parameters()) == 4 * (trunk + 512 * 256 + 256) + 512 * 512 * 2 + 2


def test_a_trunk_has_torchvisions_keys():
    with torch.device("meta"):
        keys = set(vgg16_trunk(NetworkDescription(("good", "crack"))).state_dict())
    convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    assert keys == {f"{index}.{name}" for index in convolutions for name in ("weight", "bias")}


def test_pooling_is_the_sum_of_the_literal_loop():
    torch.manual_seed(1)
    f_a, f_b = torch.randn(2, 2, 5, 3, 4, dtype=torch.float64)
    expected = torch.zeros(2, 5, 5, dtype=torch.float64)
    for picture in range(2):
        for row in range(3):
            for column in range(4):
                for m in range(5):
                    for n in range(5):
                        expected[picture, m, n] += f_a[picture, m, row, column] * f_b[picture, n, row, column]  # Eq. 2, summed by Eq. 3
    assert torch.allclose(bilinear_pool(f_a, f_b), expected, rtol=1e-12, atol=1e-12)


def test_pooling_does_not_overflow_half_precision():
    features = torch.full((1, 4, 28, 28), 100.0, dtype=torch.float16)
    assert bilinear_pool(features, features).eq(784 * 100.0 * 100.0).all()


def test_the_normalised_head_is_the_signed_square_root_at_length_one():
    torch.manual_seed(2)
    phi = 1e12 * torch.randn(2, 6, 6, dtype=torch.float64)
    root = phi.sign() * phi.abs().sqrt()
    expected = root / root.norm(dim=(1, 2), keepdim=True)
    assert torch.allclose(signed_sqrt_l2(phi), expected, atol=1e-5)
    assert torch.allclose(signed_sqrt_l2(phi).norm(dim=(1, 2)), torch.ones(2, dtype=torch.float64))


def test_the_heads_gradient_is_autograds_even_at_zero():
    torch.manual_seed(3)
    phi = torch.randn(2, 6, 6, dtype=torch.float64)
    phi[0, :3] = 0
    phi[1] = 0
    weight = torch.randn(2, 6, 6, dtype=torch.float64)
    leaf = phi.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad((weight * signed_sqrt_l2(leaf)).sum(), leaf)
    assert expected.isfinite().all()
    assert torch.allclose(signed_sqrt_l2_gradient(weight, phi), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("head", ["none", "signed_sqrt_l2"])
def test_a_picture_without_any_feature_has_a_finite_gradient(head):
    network = slim(head=head)
    network.logits(torch.zeros(1, 3, 64, 64)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_forward_gives_the_logits_that_training_descends():
    network = slim()
    pictures = torch.randn(3, 3, 64, 64)
    logits, heat = network(pictures)
    assert torch.equal(logits, network.logits(pictures))
    assert heat.shape == (3, 4, 4)
    assert heat.min() >= 0


def test_one_trunk_is_four_equal_trunks():
    one, four = slim(trunks=1), slim(trunks=4)
    state = one.state_dict()
    state |= {key.replace("trunks.0.", f"trunks.{n}."): value for key, value in state.items() if "trunks.0." in key for n in range(4)}
    four.load_state_dict(state)
    pictures = torch.randn(2, 3, 64, 64)
    for ours, theirs in zip(one(pictures), four(pictures), strict=True):
        assert torch.equal(ours, theirs)


def test_the_four_branches_of_a_new_network_differ():
    f_a, f_b = slim(trunks=1).features(torch.randn(1, 3, 64, 64))
    branches = [*f_a.chunk(2, dim=1), *f_b.chunk(2, dim=1)]
    assert all(not torch.allclose(first, second) for i, first in enumerate(branches) for second in branches[:i])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"classes": ("good",)}, "classes"),
        ({"classes": ("good", "good")}, "classes"),
        ({"width": 0.0}, "width"),
        ({"input_size": 100}, "input_size"),
        ({"trunks": 2}, "trunks"),
        ({"head": "relu"}, "head"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
    ],
)
def test_a_network_that_cannot_be_is_refused_by_name(change, word):
    with pytest.raises(ValueError, match=word):
        replace(SLIM, **change)
