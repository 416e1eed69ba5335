import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.weights import Golden, WeightsError

DESCRIPTION = NetworkDescription(("good", "crack"), width=1 / 16, input_size=32, trunks=1, mean=(0.5, 0.5, 0.5), pretrained="none")


@pytest.fixture
def network() -> BilinearDVGG16:
    torch.manual_seed(0)
    return BilinearDVGG16(DESCRIPTION)


def golden(count: int, size: int = 32, classes: int = 2) -> list[Golden]:
    """Pictures of noise with made-up scores."""
    rng = np.random.default_rng(0)
    return [
        Golden(rng.integers(0, 256, (size, size, 3), dtype=np.uint8), rng.dirichlet(np.ones(classes)).astype(np.float32))
        for _ in range(count)
    ]


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> None:
    """The file with its tensors and its metadata changed in place."""
    data = path.read_bytes()
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    station = json.loads(header["__metadata__"]["station"])
    change(tensors, station)
    path.write_bytes(safetensors.torch.save(tensors, {"station": json.dumps(station)}))


def redescribed(path: Path, change: dict[str, object]) -> None:
    rewritten(path, lambda _, station: station["description"].update(change))


def test_what_is_loaded_is_what_was_saved(tmp_path, network):
    path = tmp_path / "w.safetensors"
    sha256 = weights.save(path, network, {"pictures": {"good": 3}}, [])
    loaded = weights.load(path)
    assert loaded.description == DESCRIPTION
    assert loaded.card == {"pictures": {"good": 3}}
    assert loaded.sha256 == sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    picture = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.network.logits(picture), network.logits(picture))


def test_the_same_network_gives_the_same_file(tmp_path, network):
    first = weights.save(tmp_path / "a.safetensors", network, {"b": 1, "a": 2}, golden(3))
    again = network.to(memory_format=torch.channels_last)
    assert weights.save(tmp_path / "b.safetensors", again, {"a": 2, "b": 1}, golden(3)) == first
    assert weights.save(tmp_path / "c.safetensors", network, {"a": 2, "b": 1}, golden(2)) != first


def test_saving_replaces_the_file_whole_or_not_at_all(tmp_path, network, monkeypatch):
    path = tmp_path / "w.safetensors"
    sha256 = weights.save(path, network, {}, [])

    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    torch.nn.init.zeros_(network.classifier.weight)
    with pytest.raises(OSError, match="No space"):
        weights.save(path, network, {}, [])
    assert weights.load(path).sha256 == sha256


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.safetensors: cannot be read"):
        weights.load(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_refused(tmp_path, network, share):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match="cut short"):
        weights.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"station": "{}"}, {"station": "no json"}])
def test_a_safetensors_file_of_someone_else_is_refused(tmp_path, network, metadata):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save(network.state_dict(), metadata))
    with pytest.raises(WeightsError, match="not written by"):
        weights.load(path)


@pytest.mark.parametrize("change", [{"width": 1 / 8}, {"trunks": 4}, {"classes": ["good", "crack", "stain"]}])
def test_tensors_that_do_not_fit_the_description_are_refused(tmp_path, network, change):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    redescribed(path, change)
    with pytest.raises(WeightsError, match="do not fit"):
        weights.load(path)


@pytest.mark.parametrize("change", [{"head": "relu"}, {"depth": 16}, {"width": "wide"}])
def test_a_description_that_is_no_network_is_refused(tmp_path, network, change):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    redescribed(path, change)
    with pytest.raises(WeightsError, match="description"):
        weights.load(path)


def test_a_description_survives_the_file_exactly(tmp_path):
    description = replace(DESCRIPTION, width=1 / 3, head="none", std=(0.1, 0.2, 0.3), classes=("gut", "Riß"))
    path = tmp_path / "w.safetensors"
    weights.save(path, BilinearDVGG16(description), {}, [])
    assert weights.load(path).description == description


# --- the golden pictures


@pytest.mark.parametrize("count", [0, 1, weights.GOLDEN_LIMIT])
def test_golden_pictures_survive_the_file_exactly(tmp_path, network, count):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, golden(count))
    loaded = weights.load(path)
    assert len(loaded.golden) == count
    for read, written in zip(loaded.golden, golden(count), strict=True):
        assert (read.rgb.dtype, read.probabilities.dtype) == (np.uint8, np.float32)
        assert np.array_equal(read.rgb, written.rgb)
        assert read.probabilities.tobytes() == written.probabilities.tobytes()
    assert not any(key.startswith("golden") for key in loaded.network.state_dict())


@pytest.mark.parametrize(
    "unusable",
    [
        golden(weights.GOLDEN_LIMIT + 1),
        golden(1, size=48),
        golden(1, classes=3),
        [Golden(golden(1)[0].rgb[..., :1], golden(1)[0].probabilities)],
        [Golden(golden(1)[0].rgb.astype(np.uint16), golden(1)[0].probabilities)],
        [Golden(golden(1)[0].rgb, np.array([0.2, 0.3], dtype=np.float32))],
        [Golden(golden(1)[0].rgb, np.array([1.5, -0.5], dtype=np.float32))],
        [Golden(golden(1)[0].rgb, np.array([0.5, 0.5]))],
    ],
)
def test_golden_pictures_that_do_not_fit_are_not_written(tmp_path, network, unusable):
    with pytest.raises(ValueError, match=r"golden|picture|scores"):
        weights.save(tmp_path / "w.safetensors", network, {}, unusable)
    assert not list(tmp_path.iterdir())


DAMAGES: dict[str, Callable[[dict[str, torch.Tensor], dict[str, Any]], object]] = {
    "a picture is gone": lambda tensors, _: tensors.pop("golden.1"),
    "a score is gone": lambda _, station: station["golden"].pop(),
    "all scores are gone": lambda _, station: station.pop("golden"),
    "the scores are no list": lambda _, station: station.update(golden={"0": [0.5, 0.5], "1": [0.5, 0.5]}),
    "there are too many": lambda tensors, station: (
        station.update(golden=[[0.5, 0.5]] * 5),
        tensors.update({f"golden.{number}": tensors["golden.0"].clone() for number in range(5)}),
    ),
    "a picture has no number": lambda tensors, _: tensors.update({"golden.x": tensors.pop("golden.1")}),
    "a picture is cut short": lambda tensors, _: tensors.update({"golden.1": tensors["golden.1"][:100].clone()}),
    "a picture is empty": lambda tensors, _: tensors.update({"golden.1": torch.empty(0, dtype=torch.uint8)}),
    "a picture is no bytes": lambda tensors, _: tensors.update({"golden.1": tensors["golden.1"].float()}),
    "a picture's byte has flipped": lambda tensors, _: tensors["golden.1"][200].bitwise_xor_(255),
    "a score is missing": lambda _, station: station["golden"][0].pop(),
    "a score is a word": lambda _, station: station.update(golden=[["much", "little"], [0.5, 0.5]]),
    "a score is nothing": lambda _, station: station.update(golden=[[None, None], [0.5, 0.5]]),
    "scores are no probabilities": lambda _, station: station.update(golden=[[3.0, -2.0], [0.5, 0.5]]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_golden_pictures_are_refused(tmp_path, network, damage):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, golden(2))
    rewritten(path, DAMAGES[damage])
    with pytest.raises(WeightsError, match=r"w\.safetensors: its golden pictures are damaged"):
        weights.load(path)


def test_a_golden_picture_of_another_size_is_refused(tmp_path, network):
    path, other = tmp_path / "w.safetensors", tmp_path / "o.safetensors"
    weights.save(path, network, {}, golden(1))
    weights.save(other, BilinearDVGG16(replace(DESCRIPTION, input_size=48)), {}, golden(1, size=48))
    picture = safetensors.torch.load_file(other)["golden.0"]
    rewritten(path, lambda tensors, _: tensors.update({"golden.0": picture}))
    with pytest.raises(WeightsError, match=r"golden\.0: the picture is uint8 \(48, 48, 3\)"):
        weights.load(path)


def test_a_file_from_before_golden_pictures_is_read_and_has_none(tmp_path, network):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    rewritten(path, lambda _, station: station.pop("golden"))
    assert weights.load(path).golden == ()
