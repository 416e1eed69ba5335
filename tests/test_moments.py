"""Phase 1 from second moments is phase 1 from maps: the same phi, the same gradients, and convolutions that compute what was trained."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from station.training.moments import moments, pool_moments
from station.training.whitening import Whitening
from station.vision.dvgg16 import DVGG16, NetworkDescription, bilinear_pool


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outputs(seed: int, channels: int = 32, pictures: int = 3) -> Tensor:
    """As a trunk makes them: none below 0, and of very different sizes; float64 (N, C, 3, 5)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-1, 1.5, channels, dtype=torch.float64)[None, :, None, None]
    return torch.randn(pictures, channels, 3, 5, generator=generator, dtype=torch.float64).add(1).relu() * sizes


def literal_moments(maps: Tensor) -> Tensor:
    """Position by position, float64."""
    n, channels, height, width = maps.shape
    m = torch.zeros(n, channels + 1, channels + 1, dtype=torch.float64)
    for picture, y, x in itertools.product(range(n), range(height), range(width)):
        with_one = torch.cat([maps[picture, :, y, x], torch.ones(1, dtype=torch.float64)])
        m[picture] += with_one[:, None] * with_one[None, :]
    return m


def layers(seed: int, channels: int = 32) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(seed)
    return nn.Linear(channels, 16, dtype=torch.float64), nn.Linear(channels, 16, dtype=torch.float64)


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / other.detach().norm())


@pytest.mark.parametrize(
    ("dtype", "expected", "tolerance"),
    [(torch.float64, torch.float64, 1e-12), (torch.float32, torch.float32, 1e-6), (torch.float16, torch.float32, 1e-6)],
)
def test_moments_are_those_of_the_literal_loop(dtype: torch.dtype, expected: torch.dtype, tolerance: float) -> None:
    maps = outputs(0).to(dtype)
    found = moments(maps)
    assert found.dtype == expected
    assert found[:, -1, -1].tolist() == [15] * 3
    assert far(found.double(), literal_moments(maps.double())) < tolerance


@pytest.mark.parametrize("seed", range(3))
def test_pooling_moments_is_pooling_maps_position_by_position(seed: int) -> None:
    maps, (a, b) = outputs(seed), layers(seed)
    phi = torch.zeros(3, 16, 16, dtype=torch.float64)
    for picture, y, x in itertools.product(range(3), range(3), range(5)):
        at = maps[picture, :, y, x]
        phi[picture] += torch.outer(a(at), b(at))
    pooled = pool_moments(literal_moments(maps), a, b)
    assert pooled.shape == phi.shape
    assert far(pooled, phi) < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_gradients_through_moments_are_those_through_maps(seed: int) -> None:
    """Whatever lies behind phi."""
    maps, (a, b), m = outputs(seed), layers(seed), literal_moments(outputs(seed))
    behind = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    f_a, f_b = (torch.einsum("rc,nchw->nrhw", layer.weight, maps) + layer.bias[:, None, None] for layer in (a, b))
    parameters = [*a.parameters(), *b.parameters()]
    expected = torch.autograd.grad((bilinear_pool(f_a, f_b) * behind).sum(), parameters)
    found = torch.autograd.grad((pool_moments(m, a, b) * behind).sum(), parameters)
    assert [one.shape for one in found] == [parameter.shape for parameter in parameters]
    assert all(far(one, other) < 1e-9 for one, other in zip(found, expected, strict=True))


# --- in whitened coordinates


def whitened(maps: Tensor) -> tuple[Whitening, Tensor]:
    """The whitening of all the maps, and their whitened coordinates (r, all positions)."""
    whitening = Whitening.of(literal_moments(maps).sum(dim=0))
    return whitening, whitening(maps).double().transpose(0, 1).flatten(1)


def test_whitened_coordinates_have_no_mean_and_unit_variance() -> None:
    """But for the weakest, which are kept from being blown up: of what is a thousandth of the strongest, half remains."""
    whitening, coordinates = whitened(outputs(0, pictures=40))
    assert coordinates.mean(dim=1).abs().max() < 1e-4
    covariance = coordinates @ coordinates.T / coordinates.shape[1]
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-4
    assert covariance.diag().max() == pytest.approx(1, abs=2e-3)
    assert covariance.diag().min() < 0.7
    assert whitening.matrix.shape == (32, 32)


def test_the_folded_convolutions_make_of_a_trunks_output_what_was_trained_on_whitened_ones() -> None:
    maps = outputs(1, pictures=40)
    whitening, coordinates = whitened(maps)
    d = DVGG16(NetworkDescription(("a", "b"), width=1 / 16))
    trained = whitening.start(32, torch.Generator().manual_seed(0))
    nn.init.normal_(trained.bias)
    whitening.fold(trained, d)
    with torch.no_grad():
        folded = d(maps.float(), maps.float()).double().transpose(0, 1).flatten(1)
        expected = trained.weight.double() @ coordinates + trained.bias.double()[:, None]
    assert far(folded, expected) < 1e-5


def test_no_two_of_the_four_branches_start_alike_and_the_seed_says_how() -> None:
    whitening, _ = whitened(outputs(2, pictures=40))

    def start(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        a, b = (whitening.start(32, generator) for _ in range(2))
        return [*a.weight.chunk(2), *b.weight.chunk(2)]

    assert not any(torch.allclose(one, other, atol=0.1) for one, other in itertools.combinations(start(0), 2))
    assert all(torch.equal(one, other) for one, other in zip(start(0), start(0), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(start(0), start(1), strict=True))
