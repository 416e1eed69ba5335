import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.weights import WeightsError

DESCRIPTION = NetworkDescription(("good", "crack"), width=1 / 16, input_size=32, trunks=1, mean=(0.5, 0.5, 0.5), pretrained="none")


@pytest.fixture
def network() -> BilinearDVGG16:
    torch.manual_seed(0)
    return BilinearDVGG16(DESCRIPTION)


def rewritten(path: Path, change: dict[str, object]) -> None:
    """The file with another description, its tensors kept."""
    loaded = weights.load(path)
    described = {"description": {**json.loads(json.dumps(loaded.description.__dict__)), **change}, "card": {}}
    path.write_bytes(safetensors.torch.save(loaded.network.state_dict(), {"station": json.dumps(described)}))


def test_what_is_loaded_is_what_was_saved(tmp_path, network):
    path = tmp_path / "w.safetensors"
    sha256 = weights.save(path, network, {"pictures": {"good": 3}})
    loaded = weights.load(path)
    assert loaded.description == DESCRIPTION
    assert loaded.card == {"pictures": {"good": 3}}
    assert loaded.sha256 == sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    picture = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.network.logits(picture), network.logits(picture))


def test_the_same_network_gives_the_same_file(tmp_path, network):
    first = weights.save(tmp_path / "a.safetensors", network, {"b": 1, "a": 2})
    assert weights.save(tmp_path / "b.safetensors", network.to(memory_format=torch.channels_last), {"a": 2, "b": 1}) == first


def test_saving_replaces_the_file_whole_or_not_at_all(tmp_path, network, monkeypatch):
    path = tmp_path / "w.safetensors"
    sha256 = weights.save(path, network, {})

    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_room)
    torch.nn.init.zeros_(network.classifier.weight)
    with pytest.raises(OSError, match="No space"):
        weights.save(path, network, {})
    assert weights.load(path).sha256 == sha256


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.safetensors: cannot be read"):
        weights.load(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_refused(tmp_path, network, share):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {})
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
    weights.save(path, network, {})
    rewritten(path, change)
    with pytest.raises(WeightsError, match="do not fit"):
        weights.load(path)


@pytest.mark.parametrize("change", [{"head": "relu"}, {"depth": 16}, {"width": "wide"}])
def test_a_description_that_is_no_network_is_refused(tmp_path, network, change):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {})
    rewritten(path, change)
    with pytest.raises(WeightsError, match="description"):
        weights.load(path)


def test_a_description_survives_the_file_exactly(tmp_path):
    description = replace(DESCRIPTION, width=1 / 3, head="none", std=(0.1, 0.2, 0.3), classes=("gut", "Riß"))
    path = tmp_path / "w.safetensors"
    weights.save(path, BilinearDVGG16(description), {})
    assert weights.load(path).description == description
