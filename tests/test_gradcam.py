import pytest
import torch

from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription, bilinear_pool
from station.vision.gradcam import heat_map


def network(head: str, trunks: int) -> BilinearDVGG16:
    torch.manual_seed(0)
    return BilinearDVGG16(NetworkDescription(("a", "b", "c", "d"), 1 / 16, 64, trunks, head)).double()


def literal_grad_cam(net: BilinearDVGG16, f_a: torch.Tensor, f_b: torch.Tensor, n: int) -> torch.Tensor:
    """Eq. 4 and 5 for one picture, letter by letter, with autograd's gradient."""
    leaf = f_a.detach().requires_grad_(True)
    y_n = net.classify(bilinear_pool(leaf, f_b.detach()))[0, n]
    (gradient,) = torch.autograd.grad(y_n, leaf)
    _, channels, height, width = f_a.shape
    total = torch.zeros(height, width, dtype=f_a.dtype)
    for k in range(channels):
        alpha = gradient[0, k].sum() / (height * width)
        total += alpha * f_a[0, k].detach()
    return total.clamp(min=0)


@pytest.mark.parametrize("trunks", [1, 4])
@pytest.mark.parametrize("head", ["none", "signed_sqrt_l2"])
def test_the_closed_form_is_grad_cam_for_every_class(head, trunks):
    net = network(head, trunks)
    lit = 0
    for picture in torch.randn(3, 1, 3, 64, 64, dtype=torch.float64):
        with torch.no_grad():
            f_a, f_b = net.features(picture)
            phi = bilinear_pool(f_a, f_b)
        for n in range(4):
            expected = literal_grad_cam(net, f_a, f_b, n)
            with torch.no_grad():
                heat = heat_map(f_a, f_b, net.score_gradient(phi, torch.tensor([n])))[0]
            assert (heat - expected).norm() <= 1e-9 * expected.norm()
            lit += int(expected.max() > 0)
    assert lit >= 6  # a map that is 0 everywhere would prove nothing


@pytest.mark.parametrize("head", ["none", "signed_sqrt_l2"])
def test_forward_maps_the_most_probable_class_of_each_picture(head):
    net = network(head, 4)
    pictures = torch.randn(5, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        logits, heat = net(pictures)
    for picture, scores, ours in zip(pictures, logits, heat, strict=True):
        expected = literal_grad_cam(net, *net.features(picture[None]), int(scores.argmax()))
        assert (ours - expected).norm() <= 1e-9 * expected.norm()


def test_without_normalisation_the_evidence_of_all_positions_is_the_score():
    net = network("none", 4)
    f_a, f_b = net.features(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    weight = net.score_gradient(bilinear_pool(f_a, f_b), torch.tensor([2]))[0]
    evidence = torch.einsum("chw,cd,dhw->", f_a[0], weight, f_b[0])
    logit = net.classify(bilinear_pool(f_a, f_b))[0, 2]
    assert torch.allclose(evidence + net.classifier.bias[2], logit, rtol=1e-9)
