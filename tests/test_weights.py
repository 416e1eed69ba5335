import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.weights import Golden, WeightsError

DESCRIPTION = NetworkDescription(("good", "crack"), width=1 / 16, input_size=32, trunks=1, mean=(0.5, 0.5, 0.5), pretrained="none")


EITHER_WAY = pytest.mark.parametrize("opened", [weights.load, weights.read])


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


def test_read_gives_all_that_load_gives_but_the_network(tmp_path, network):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {"pictures": 3}, golden(2))
    read, loaded = weights.read(path), weights.load(path)
    assert (read.path, read.description, read.card, read.sha256) == (path, loaded.description, loaded.card, loaded.sha256)
    for one, other in zip(read.golden, loaded.golden, strict=True):
        assert np.array_equal(one.rgb, other.rgb)
        assert np.array_equal(one.probabilities, other.probabilities)


def test_no_tensor_keeps_the_memory_of_another(tmp_path, network):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, golden(1))
    for tensor in weights.load(path).network.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(tmp_path, network, dtype):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    rewritten(path, lambda tensors, _: tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()}))
    for name, tensor in weights.load(path).network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, network.state_dict()[name].to(dtype).float())


# By how many bytes the most that the process ever had grows when the large file is read, and then when it is loaded. The small file
# comes first: it brings in what torch imports late.
PEAKS = """
import sys
from pathlib import Path
from station.vision import weights

def peak():
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))

small, large = Path(sys.argv[1]), Path(sys.argv[2])
weights.load(small)
for opened in weights.read, weights.load:
    before = peak()
    opened(large)
    print(peak() - before)
"""


def test_reading_takes_no_memory_and_loading_that_of_the_tensors_once(tmp_path, network):
    small, large = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    weights.save(small, network, {}, [])
    weights.save(large, BilinearDVGG16(replace(DESCRIPTION, width=1 / 2, trunks=4)), {}, [])
    ran = subprocess.run([sys.executable, "-c", PEAKS, str(small), str(large)], capture_output=True, text=True, check=True)
    reading, loading = (int(line) / large.stat().st_size for line in ran.stdout.split())
    assert reading < 0.2
    assert loading < 1.2


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


@EITHER_WAY
def test_a_missing_file_is_refused_by_name(opened, tmp_path):
    with pytest.raises(WeightsError, match=r"gone\.safetensors: cannot be read"):
        opened(tmp_path / "gone.safetensors")


@EITHER_WAY
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_short_is_refused(opened, tmp_path, network, share):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match="cut short"):
        opened(path)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """A file that has golden pictures, to be damaged again and again."""
    path = tmp_path_factory.mktemp("damaged") / "w.safetensors"
    torch.manual_seed(0)
    weights.save(path, BilinearDVGG16(DESCRIPTION), {}, golden(1))
    path.with_suffix(".whole").write_bytes(path.read_bytes())
    return path


@settings(deadline=None, max_examples=300)
@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_header_with_another_byte_is_refused_in_words_or_means_what_it_says(damaged, where, byte):
    data = bytearray(damaged.with_suffix(".whole").read_bytes())
    data[int(where * (8 + int.from_bytes(data[:8], "little")))] = byte
    damaged.write_bytes(data)
    try:
        sha256 = weights.read(damaged).sha256
    except WeightsError as error:
        words = str(error)
    else:
        words = f"{damaged}: is {sha256}"
        assert sha256 == hashlib.sha256(data).hexdigest()
    assert words.startswith(f"{damaged}: ")


def with_header(change: Callable[[dict[str, Any]], object], data: bytes) -> bytes:
    """A safetensors file with its header changed."""
    length = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:length])
    change(header)
    changed = json.dumps(header).encode()
    return len(changed).to_bytes(8, "little") + changed + data[length:]


HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a tensor starts late": lambda header: header["classifier.bias"].update(data_offsets=[4, 8]),
    "two tensors overlap": lambda header: header.update({"twice": header["classifier.bias"]}),
    "a tensor is unnamed": lambda header: header.pop("classifier.weight"),
    "a shape is larger than its bytes": lambda header: header["classifier.bias"].update(shape=[3]),
    "a shape is below 0": lambda header: header["classifier.bias"].update(shape=[-1, -2]),
    "a shape is no list": lambda header: header["classifier.bias"].update(shape="2"),
    "a dtype is unknown": lambda header: header["classifier.bias"].update(dtype="F31"),
    "a tensor is a number": lambda header: header.update({"classifier.bias": 3}),
}


@EITHER_WAY
@pytest.mark.parametrize("change", HEADERS)
def test_a_header_that_does_not_fit_its_bytes_is_refused(opened, tmp_path, network, change):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, golden(1))
    path.write_bytes(with_header(HEADERS[change], path.read_bytes()))
    with pytest.raises(WeightsError, match=r"w\.safetensors: is cut short or no safetensors file"):
        opened(path)


@EITHER_WAY
@pytest.mark.parametrize("text", [b"[]", b"{}x", b'"\xff"', b"nothing"])
def test_a_header_that_is_no_json_object_is_refused(opened, tmp_path, text):
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(WeightsError, match="no safetensors file"):
        opened(path)


@EITHER_WAY
def test_a_file_with_bytes_behind_its_tensors_is_refused(opened, tmp_path, network):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(WeightsError, match="cut short or no safetensors file"):
        opened(path)


@EITHER_WAY
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"station": "{}"}, {"station": "no json"}])
def test_a_safetensors_file_of_someone_else_is_refused(opened, tmp_path, network, metadata):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors.torch.save(network.state_dict(), metadata))
    with pytest.raises(WeightsError, match="not written by"):
        opened(path)


@EITHER_WAY
@pytest.mark.parametrize("change", [{"width": 1 / 8}, {"trunks": 4}, {"classes": ["good", "crack", "stain"]}])
def test_tensors_that_do_not_fit_the_description_are_refused(opened, tmp_path, network, change):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    redescribed(path, change)
    with pytest.raises(WeightsError, match="do not fit"):
        opened(path)


@EITHER_WAY
@pytest.mark.parametrize("change", [{"head": "relu"}, {"depth": 16}, {"width": "wide"}])
def test_a_description_that_is_no_network_is_refused(opened, tmp_path, network, change):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, [])
    redescribed(path, change)
    with pytest.raises(WeightsError, match="description"):
        opened(path)


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


@EITHER_WAY
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_golden_pictures_are_refused(opened, tmp_path, network, damage):
    path = tmp_path / "w.safetensors"
    weights.save(path, network, {}, golden(2))
    rewritten(path, DAMAGES[damage])
    with pytest.raises(WeightsError, match=r"w\.safetensors: its golden pictures are damaged"):
        opened(path)


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
