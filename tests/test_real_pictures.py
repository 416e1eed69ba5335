"""Real input: the same line serves pictures of real steel and real textures to the full-width network, records, and replays."""

from pathlib import Path
from typing import Any

import pytest
from conftest import make_home, station

SIZES = {"neu": 200, "dagm": 512}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("product", ["neu", "dagm"])
def test_real_pictures_run_record_and_replay_through_the_full_width_network(tmp_path: Path, data: Path, product: str) -> None:
    home = tmp_path / "home"
    pictures = data / ("neu/images" if product == "neu" else "dagm_class1/images")
    good = "crazing" if product == "neu" else "ok"
    batch = {"recipe": 3, "pictures": str(pictures), "parts": 4, "good": [good]}
    make_home(home, simulation={"batches": [batch], "noise": 0}, camera={"serial_number": "SIM-MER131"})
    sha256 = untrained_network(home, data, pictures, good)
    write_recipe(home, product, sha256, pictures)
    summary = station(home, "run", "--parts", "4", code=0, timeout_s=400)
    assert summary["parts"] == summary["plc"]["answered"] == 4
    assert summary["audit"]["ok"]
    assert summary["plc"]["violations"] == []
    (recorded,) = station(home, "recording", "list")
    replay = station(home, "replay", recorded["recording"], timeout_s=200)
    assert (replay["parts"], replay["different"]) == (4, 0)
    assert_delivered_bit_by_bit(home, recorded["recording"], pictures)


def some(pictures: Path) -> list[Path]:
    """Six pictures from all over the folder."""
    found = sorted(path for path in pictures.rglob("*") if path.suffix in (".png", ".jpg"))
    return found[:: len(found) // 5][:6]


def untrained_network(home: Path, data: Path, pictures: Path, good: str) -> str:
    """Four full-width trunks with real pretrained weights, 448 x 448, and a random classifier, balanced over a few pictures."""
    import torch

    from station.training.pretrained import load_trunk
    from station.vision import weights
    from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
    from station.vision.parity import reference
    from station.vision.preprocess import preprocess, resized_rgb, rgb_from_file

    classes = (good, *sorted(folder.name for folder in pictures.iterdir() if folder.name != good))
    torch.manual_seed(1)
    network = BilinearDVGG16(NetworkDescription(classes, pretrained="vgg16-hed-bsds500"))
    trunk = load_trunk(str(data / "weights/vgg16-hed-bsds500.safetensors"))
    for one in network.trunks:
        one.load_state_dict(trunk)
    with torch.no_grad():
        seen = [network.logits(preprocess(rgb_from_file(picture), "RGB8", network.description)) for picture in some(pictures)]
        network.classifier.bias -= torch.cat(seen).mean(dim=0)
    (home / "weights").unlink()
    (home / "weights").mkdir()
    rgb = resized_rgb(rgb_from_file(some(pictures)[0]), "RGB8", network.description.input_size)
    seen_now = reference(weights.LoadedWeights(network, network.description, {}, ""), "cpu").see(rgb, "RGB8")
    golden = [weights.Golden(rgb, seen_now.probabilities)]
    return weights.save(home / "weights/real.safetensors", network, {}, golden)


def write_recipe(home: Path, name: str, sha256: str, pictures: Path) -> None:
    """A recipe whose self-test says of two pictures what the untrained network says of them: the line is what is tested here."""
    from dataclasses import replace

    from station.vision.parity import reference
    from station.vision.preprocess import rgb_from_file
    from station.vision.weights import load

    loaded = load(home / "weights/real.safetensors")
    engine = reference(replace(loaded), "cpu")
    folder = home / "recipes" / name
    folder.mkdir()
    said: dict[str, str] = {}
    for picture in some(pictures):
        seen = engine.see(rgb_from_file(picture), "RGB8")
        said.setdefault(loaded.description.classes[int(seen.probabilities.argmax())], picture.name)
        (folder / picture.name).write_bytes(picture.read_bytes())
        if len(said) == 2:
            break
    assert len(said) == 2, "the balanced classifier tells two of these pictures apart"
    tests = "\n".join(f"  - {{image: {image}, class: {class_name}}}" for class_name, image in said.items())
    good_class, _bad = said
    size = SIZES[name]
    offsets = f"OffsetX: {(1280 - size) // 2}, OffsetY: {(1024 - size) // 2}"
    (folder / "recipe.yaml").write_text(
        f"number: 3\ncamera: {{PixelFormat: Mono8, Width: {size}, Height: {size}, {offsets}}}\n"
        f"network: {{weights: real.safetensors, sha256: {sha256}}}\ngood: [{good_class}]\nminimum_probability: 0.01\ndeadline_ms: 20000\n"
        f"localization: {{method: otsu}}\nself_test:\n{tests}\n"
    )


def assert_delivered_bit_by_bit(home: Path, recording: str, pictures: Path) -> None:
    """What the camera delivered, and the recording kept, are the very pictures that it was given."""
    import cv2

    from station.recording import read

    known: set[bytes] = set()
    for picture in pictures.rglob("*"):
        if picture.suffix in (".png", ".jpg"):
            known.add(cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE).tobytes())
    frames: list[Any] = [part.frame for part in read(home / "data/recordings" / recording)]
    assert len(frames) == 4
    assert all(frame.pixels.tobytes() in known for frame in frames)
