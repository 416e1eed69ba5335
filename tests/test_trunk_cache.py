"""A held trunk sees each picture once: what it made of it is found again, within a limit, and whatever happened to the files meanwhile."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import narrow_channels, random_trunk, small, trained, write_pictures, write_trunk
from torch import Tensor, nn

from station.training.dataset import DatasetError, Sample, read_folder, read_pictures
from station.training.train import Settings
from station.training.trunk_cache import TrunkCache
from station.vision.dvgg16 import NetworkDescription
from station.vision.preprocess import preprocess

SMALL = NetworkDescription(("good", "stain"), width=1 / 16, input_size=32)
FILE_BYTES = 128 + 32 * 2 * 2 * 2  # NPY's header; float16 (32, 2, 2)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    return read_folder(write_pictures(tmp_path_factory.mktemp("data"), 8)).samples


class Trunk(nn.Module):
    """Counts the pictures that go through it."""

    def __init__(self, seed: int = 0, description: NetworkDescription = SMALL) -> None:
        super().__init__()
        self.layers = random_trunk(description, seed)
        self.passes = 0

    def forward(self, picture: Tensor) -> Tensor:
        self.passes += len(picture)
        output: Tensor = self.layers(picture)
        return output


class Cached:
    """What a training, begun anew, gets of its trunk through the folder."""

    def __init__(
        self, folder: Path, samples: tuple[Sample, ...], description: NetworkDescription = SMALL, seed: int = 0, limit_bytes: int = 2**30
    ) -> None:
        self.trunk = Trunk(seed, description)
        self.cache = TrunkCache(folder, self.trunk, description, CPU, limit_bytes)
        self.outputs = [output.clone() for output in self.cache.outputs(samples)]

    @property
    def passes(self) -> int:
        assert self.cache.passes == self.trunk.passes
        return self.trunk.passes


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_each_picture_goes_through_the_trunk_once_ever(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    first = Cached(tmp_path, samples)
    assert first.passes == len(samples) == 16
    for output, (pixels, pixel_format, _) in zip(first.outputs, read_pictures(samples), strict=True):
        assert torch.equal(output, first.trunk(preprocess(pixels, pixel_format, SMALL))[0].half())
    second = Cached(tmp_path, samples)
    assert second.passes == 0
    assert same(second.outputs, first.outputs)
    assert not any(torch.equal(first.outputs[0], output) for output in first.outputs[1:])


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"description": NetworkDescription(("good", "stain"), width=1 / 16, input_size=48)},
        {"description": NetworkDescription(("good", "stain"), width=1 / 16, input_size=32, std=(0.2, 0.2, 0.2))},
    ],
    ids=["trunk", "input size", "normalisation"],
)
def test_another_trunk_input_size_or_normalisation_sees_them_all_again(
    tmp_path: Path, samples: tuple[Sample, ...], other: dict[str, NetworkDescription]
) -> None:
    Cached(tmp_path, samples)
    assert Cached(tmp_path, samples, **other).passes == len(samples)  # type: ignore[arg-type]
    assert Cached(tmp_path, samples).passes == 0


def test_another_preprocessing_sees_them_all_again(tmp_path: Path, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    Cached(tmp_path, samples)
    monkeypatch.setattr("station.vision.preprocess.__file__", __file__)
    assert Cached(tmp_path, samples).cache.passes == len({sample.sha256 for sample in samples})


def test_the_classes_do_not_matter_to_a_trunk(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    Cached(tmp_path, samples)
    assert Cached(tmp_path, samples, NetworkDescription(("a", "b", "c"), width=1 / 16, input_size=32)).passes == 0


def test_a_picture_is_known_by_its_pixels_and_not_by_its_file(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    Cached(tmp_path, samples[:1])
    moved = Sample(tmp_path / "gone.png", 1, samples[0].sha256)
    assert Cached(tmp_path, (moved,)).passes == 0


def test_a_picture_that_leaves_float16s_range_is_named(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    cached = Cached(tmp_path, ())
    with torch.no_grad():
        cached.trunk.layers.get_parameter("28.bias").fill_(1e5)
    with pytest.raises(DatasetError, match=rf"{samples[3].path.name}: .* beyond 65,504"):
        list(cached.cache.outputs(samples[3:]))
    assert files(tmp_path) == []


# --- within the limit


def aged(folder: Path, samples: tuple[Sample, ...], age_s: int) -> None:
    """As if the files of these pictures had been used so long ago."""
    for file in files(folder):
        if file.stem in {sample.sha256 for sample in samples}:
            moment_ns = file.stat().st_mtime_ns - age_s * 10**9
            os.utime(file, ns=(moment_ns, moment_ns))


def test_the_folder_never_holds_more_than_its_limit(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    cache = TrunkCache(tmp_path, Trunk(), SMALL, CPU, limit_bytes=10 * FILE_BYTES)
    held = []
    for _ in cache.outputs(samples):
        held.append(sum(file.stat().st_size for file in files(tmp_path)))
    assert held[:10] == [count * FILE_BYTES for count in range(1, 11)]
    assert max(held) == 10 * FILE_BYTES


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    Cached(tmp_path, samples[:10])
    aged(tmp_path, samples[:10], 20)
    Cached(tmp_path, samples[:5])  # the older half is used again
    Cached(tmp_path, samples[10:11], limit_bytes=10 * FILE_BYTES)
    left = {file.stem for file in files(tmp_path)}
    assert {sample.sha256 for sample in (*samples[:5], samples[10])} <= left
    assert len(left) < 11


def test_the_limit_is_that_of_all_trunks_together(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    Cached(tmp_path, samples[:10])
    aged(tmp_path, samples[:10], 20)
    other = Cached(tmp_path, samples[:10], seed=1, limit_bytes=10 * FILE_BYTES)
    assert len(files(tmp_path)) <= 10
    again = Cached(tmp_path, samples[:10], seed=1)
    assert again.passes <= 2
    assert same(again.outputs, other.outputs)


def test_what_had_to_go_is_computed_again_to_the_same_bits(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    expected = Cached(tmp_path / "large", samples).outputs
    cramped = Cached(tmp_path / "small", samples, limit_bytes=3 * FILE_BYTES)
    assert same(cramped.outputs, expected)
    assert same([output.clone() for output in cramped.cache.outputs(samples)], expected)
    assert cramped.passes > len(samples)
    assert len(files(tmp_path / "small")) <= 3


def test_a_limit_below_one_picture_only_costs_time(tmp_path: Path, samples: tuple[Sample, ...]) -> None:
    expected = Cached(tmp_path / "large", samples[:3]).outputs
    assert same(Cached(tmp_path / "small", samples[:3], limit_bytes=1).outputs, expected)


# --- whatever happens to the files


@pytest.mark.parametrize("left", [0, 5, 100, 128, FILE_BYTES - 1])
def test_a_file_that_was_cut_short_is_made_again(tmp_path: Path, samples: tuple[Sample, ...], left: int) -> None:
    expected = Cached(tmp_path, samples).outputs
    cut = files(tmp_path)[3]
    whole = cut.read_bytes()
    assert len(whole) == FILE_BYTES
    cut.write_bytes(whole[:left])
    again = Cached(tmp_path, samples)
    assert again.passes == 1
    assert same(again.outputs, expected)
    assert cut.read_bytes() == whole


def test_a_file_that_another_training_deletes_meanwhile_is_made_again(
    tmp_path: Path, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Cached(tmp_path, samples[:2]).outputs
    load = np.load

    def load_and_delete(file: Path) -> np.ndarray:
        array: np.ndarray = load(file)
        file.unlink()
        return array

    monkeypatch.setattr(np, "load", load_and_delete)
    assert same(Cached(tmp_path, samples[:2]).outputs, expected)


def test_what_another_training_deletes_while_bytes_are_counted_counts_nothing(
    tmp_path: Path, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Cached(tmp_path, samples[:3]).outputs
    stat = Path.stat

    def stat_and_delete(file: Path, **more: bool) -> os.stat_result:
        if file.suffix == ".npy":
            file.unlink()
        return stat(file, **more)

    monkeypatch.setattr(Path, "stat", stat_and_delete)
    cached = Cached(tmp_path, samples[:3])
    assert cached.passes == 3
    assert same(cached.outputs, expected)


# --- in a training


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkDescription, "channels", narrow_channels)


@pytest.mark.usefixtures("narrow")
def test_the_first_training_costs_a_pass_a_picture_and_the_second_none(tmp_path: Path) -> None:
    """Those held back are passed as well; epochs, heads and the choice of trunks change nothing."""
    data, trunk = write_pictures(tmp_path / "data", 6), write_trunk(tmp_path / "trunk.safetensors")

    def passes(settings: Settings) -> int:
        return trained(data, tmp_path / "work/plate.safetensors", settings)["trunk_passes"]

    assert passes(small(trunk)) == 12
    assert passes(small(trunk)) == 0
    assert passes(small(trunk, seed=1, head="none", trunks=4)) == 0
    assert passes(small(trunk, folds=2)) == 0
    assert passes(small(trunk, input_size=48)) == 12
    assert passes(small(write_trunk(tmp_path / "other.safetensors", seed=1))) == 12
    write_pictures(tmp_path / "data", 3, {"dent": 120})
    assert passes(small(trunk)) == 3
