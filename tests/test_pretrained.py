"""VGG16's trunk to start from: read from a file, or by way of torchvision, and what is said when it cannot be had."""

import hashlib
import importlib.util
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import DATA

from station.training.pretrained import imagenet_file, import_torchvision, is_imagenet, load_trunk, trunk_sha256
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription, vgg16_trunk
from station.vision.weights import WeightsError

HED = DATA / "weights/vgg16-hed-bsds500.safetensors"
needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="the extra `train` is not installed")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole VGG16 trunk of random weights, as torchvision names it, in float16."""
    torch.manual_seed(0)
    trunk = BilinearDVGG16(NetworkDescription(("a", "b"), trunks=1)).trunks[0]
    path = tmp_path_factory.mktemp("trunk") / "vgg16.safetensors"
    safetensors.torch.save_file({f"features.{key}": value.half() for key, value in trunk.state_dict().items()}, path)
    return path


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trunk_file: Path) -> Path:
    """A place that torchvision can download from, here in place of the internet, with an empty folder to download to."""
    served = tmp_path / "served"
    served.mkdir()
    torch.save(safetensors.torch.load_file(trunk_file), served / "vgg16.pth")
    data = (served / "vgg16.pth").read_bytes()
    file = (served / "vgg16.pth").rename(served / f"vgg16-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(import_torchvision().models.VGG16_Weights.IMAGENET1K_V1.value, "url", file.as_uri())
    return file


def test_a_trunk_is_read_whatever_else_the_file_holds(tmp_path, trunk_file):
    stored = safetensors.torch.load_file(trunk_file)
    whole = {**stored, "classifier.0.weight": torch.zeros(2, 2)}
    torch.save(whole, tmp_path / "whole.pth")
    bare = {key.removeprefix("features."): value for key, value in stored.items()}
    safetensors.torch.save_file(bare, tmp_path / "bare.safetensors")
    for path in (trunk_file, tmp_path / "whole.pth", tmp_path / "bare.safetensors"):
        trunk = load_trunk(str(path))
        assert all(tensor.dtype == torch.float32 for tensor in trunk.values())
        assert trunk.keys() == bare.keys()
        assert all(torch.equal(trunk[key], bare[key].float()) for key in bare)


def test_a_file_that_is_no_vgg16_is_refused(tmp_path, trunk_file):
    stored = safetensors.torch.load_file(trunk_file)
    safetensors.torch.save_file({**stored, "features.28.bias": torch.zeros(7)}, tmp_path / "other.safetensors")
    (tmp_path / "text.pth").write_text("no tensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, words in (
        ("other.safetensors", r"features\.28\.bias"),
        ("text.pth", "state dict"),
        ("text.safetensors", "state dict"),
        ("list.pth", "state dict"),
        ("missing.pth", "no such file"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_trunk(str(tmp_path / name))


@needs_torchvision
def test_our_trunk_has_torchvisions_shapes():
    vgg = import_torchvision().models.vgg
    with torch.device("meta"):
        theirs = vgg.make_layers(vgg.cfgs["D"]).state_dict()
        ours = vgg16_trunk(NetworkDescription(("a", "b"))).state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: tensor.shape for key, tensor in theirs.items()}


@needs_torchvision
def test_imagenets_trunk_is_downloaded_once_and_announced_beside_the_report(published, trunk_file, capsys):
    first = load_trunk("imagenet")
    assert imagenet_file().name == published.name
    assert is_imagenet(imagenet_file())
    assert trunk_sha256(first) == trunk_sha256(load_trunk(str(trunk_file)))
    said = capsys.readouterr()
    assert said.out == ""
    assert "Downloading" in said.err
    published.unlink()
    assert trunk_sha256(load_trunk("imagenet")) == trunk_sha256(first)


@needs_torchvision
def test_a_download_that_was_damaged_on_its_way_is_refused_and_not_kept(published):
    published.write_bytes(published.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"cannot be downloaded here .*invalid hash"):
        load_trunk("imagenet")
    assert not imagenet_file().exists()


@needs_torchvision
@pytest.mark.parametrize("brought", [b"", b"<html>please log in</html>"])
def test_a_file_that_was_brought_and_is_not_torchvisions_is_refused(published, brought):
    imagenet_file().parent.mkdir(parents=True)
    imagenet_file().write_bytes(brought)
    with pytest.raises(WeightsError, match=rf"{published.name}: is damaged or another file than .*delete it"):
        load_trunk("imagenet")


@needs_torchvision
def test_without_internet_the_error_says_which_file_to_bring_where(monkeypatch, tmp_path):
    import_torchvision()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(WeightsError, match=r"no route.*bring it to .*checkpoints.vgg16-\w+\.pth"):
        load_trunk("imagenet")


def test_without_torchvision_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="make setup"):
        load_trunk("imagenet")


@pytest.mark.skipif(not HED.is_file(), reason="the real VGG16 trunk is not on this machine")
def test_a_real_trunk_is_loaded():
    trunk = load_trunk(str(HED))
    assert trunk["0.weight"].shape == (64, 3, 3, 3)


def test_a_trunks_hash_is_that_of_its_values_whatever_file_they_came_from(tmp_path, trunk_file):
    trunk = load_trunk(str(trunk_file))
    torch.save({"features." + key: trunk[key] for key in reversed(trunk)}, tmp_path / "same.pth")
    same = trunk_sha256(load_trunk(str(tmp_path / "same.pth")))
    assert same == trunk_sha256(trunk)
    assert len(same) == 64
    trunk["28.bias"][511] += 1e-3
    assert trunk_sha256(trunk) != same


def test_a_trunks_hash_is_over_sorted_keys_and_float32_bytes():
    expected = hashlib.sha256(b"0.bias" + b"\x00\x00\x80\x3f" + b"0.weight" + b"\x00\x00\x00\x40").hexdigest()
    assert trunk_sha256({"0.weight": torch.tensor([2.0]), "0.bias": torch.tensor([1.0], dtype=torch.float16)}) == expected
