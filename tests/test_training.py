import importlib.util
import urllib.error
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from station.training import batch_norm
from station.training.dataset import DatasetError, Sample, read_folder, split
from station.training.evaluate import evaluate, read_pictures
from station.training.pretrained import import_torchvision, load_trunk
from station.training.train import Phase, Settings, TrainingError, train
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription, vgg16_trunk
from station.vision.engine import Engine
from station.vision.weights import WeightsError

HED = Path(__file__).parents[2] / "shared/data/weights/vgg16-hed-bsds500.safetensors"
SCRATCH = Settings(
    pretrained="none",
    width=1 / 16,
    input_size=32,
    trunks=1,
    validation=0.25,
    from_scratch=Phase(epochs=12, learning_rate=3e-3, batch=8, cosine=True),
    device="cpu",
)
needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="the extra `train` is not installed")


def part(class_name: str, seed: int) -> np.ndarray:
    """A grey noisy surface, RGB; a scratched one has a bright line across."""
    rng = np.random.default_rng(seed)
    surface = rng.normal(110, 12, (40, 48, 3)).clip(0, 255).astype(np.uint8)
    if class_name == "scratch":
        x, y = (int(value) for value in rng.integers(8, 32, 2))
        cv2.line(surface, (x - 8, y - 6), (x + 8, y + 6), (250, 240, 230), 3)
    return surface


def write_folder(folder: Path, count: int, classes: tuple[str, ...] = ("good", "scratch")) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for seed in range(count):
            cv2.imwrite(str(folder / name / f"{seed:03}.png"), part(name, seed))
    return folder


@pytest.fixture(scope="module")
def trunk_file(tmp_path_factory) -> Path:
    """A whole VGG16 trunk of random weights, as torchvision names it, in float16."""
    torch.manual_seed(0)
    trunk = BilinearDVGG16(NetworkDescription(("a", "b"), trunks=1)).trunks[0]
    path = tmp_path_factory.mktemp("trunk") / "vgg16.safetensors"
    safetensors.torch.save_file({f"features.{key}": value.half() for key, value in trunk.state_dict().items()}, path)
    return path


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- the labelled folder


def test_a_folder_a_class_is_read_in_order(tmp_path):
    dataset = read_folder(write_folder(tmp_path, 3))
    assert dataset.classes == ("good", "scratch")
    assert [(sample.path.parent.name, sample.path.name, sample.label) for sample in dataset.samples[2:4]] == [
        ("good", "002.png", 0),
        ("scratch", "000.png", 1),
    ]
    assert dataset.counts() == {"good": 3, "scratch": 3}


def test_a_data_set_with_masks_is_read_from_its_images(tmp_path):
    write_folder(tmp_path / "images", 2)
    write_folder(tmp_path / "masks", 2, ("scratch",))
    assert read_folder(tmp_path).counts() == {"good": 2, "scratch": 2}


def test_what_is_no_picture_is_left_out(tmp_path):
    write_folder(tmp_path, 2)
    (tmp_path / "good" / "notes.txt").write_text("x")
    (tmp_path / "good" / ".hidden.png").write_text("x")
    (tmp_path / ".git").mkdir()
    assert read_folder(tmp_path).counts() == {"good": 2, "scratch": 2}


def test_the_order_of_the_classes_can_be_given(tmp_path):
    dataset = read_folder(write_folder(tmp_path, 2), ("scratch", "good"))
    assert dataset.classes == ("scratch", "good")
    assert {sample.path.parent.name: sample.label for sample in dataset.samples} == {"scratch": 0, "good": 1}


@pytest.mark.parametrize(
    ("made", "classes", "words"),
    [
        ((), None, "at least two"),
        (("good",), None, "at least two"),
        (("good", "scratch"), ("good", "stain"), "were asked for"),
        (("good", "scratch"), ("good",), "were asked for"),
    ],
)
def test_classes_that_cannot_be_trained_are_refused(tmp_path, made, classes, words):
    with pytest.raises(DatasetError, match=words):
        read_folder(write_folder(tmp_path, 1, made), classes)


def test_a_missing_folder_and_an_empty_class_are_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        read_folder(tmp_path / "nowhere")
    (write_folder(tmp_path, 1) / "stain").mkdir()
    with pytest.raises(DatasetError, match="class stain has no picture"):
        read_folder(tmp_path)


def test_the_split_takes_the_same_share_of_every_class(tmp_path):
    write_folder(tmp_path, 20, ("good",))
    write_folder(tmp_path, 5, ("scratch",))
    dataset = read_folder(tmp_path)
    training, held_back = split(dataset, 0.2, seed=1)
    assert [sum(sample.label == label for sample in held_back) for label in (0, 1)] == [4, 1]
    assert sorted(training + held_back, key=lambda sample: (sample.label, sample.path)) == list(dataset.samples)
    assert split(dataset, 0.2, seed=1) == (training, held_back)
    assert split(dataset, 0.2, seed=2) != (training, held_back)


def test_a_class_of_one_picture_cannot_be_split(tmp_path):
    with pytest.raises(DatasetError, match="class good: has one picture"):
        split(read_folder(write_folder(tmp_path, 1)), 0.2, seed=0)


# --- the pretrained trunk


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
def test_imagenets_trunk_comes_through_torchvision(monkeypatch, trunk_file):
    import_torchvision()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: safetensors.torch.load_file(trunk_file))
    assert load_trunk("imagenet")["28.weight"].shape == (512, 512, 3, 3)


@needs_torchvision
def test_without_internet_the_error_says_which_file_to_bring_where(monkeypatch):
    import_torchvision()

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


# --- the training


def test_a_network_trained_from_scratch_tells_the_classes_apart(tmp_path):
    lines: list[str] = []
    report = train(write_folder(tmp_path / "data", 32), tmp_path / "w.safetensors", SCRATCH, progress=lines.append)
    loaded = weights.load(tmp_path / "w.safetensors")
    engine = Engine(loaded, "cpu")
    never_seen = [(part(name, seed), "RGB8", label) for label, name in enumerate(("good", "scratch")) for seed in range(1000, 1025)]
    assert evaluate(engine, never_seen)["accuracy"] >= 0.98
    assert report["validation"]["accuracy"] >= 0.9
    assert (report["images"], report["validation"]["images"], report["epochs"]) == (64, 16, 12)
    assert report["sha256"] == loaded.sha256
    assert report["weights"] == str(tmp_path / "w.safetensors")
    assert report["trunk_seconds"] == 0
    assert loaded.description.classes == ("good", "scratch")
    assert loaded.card["pictures"] == {"good": 32, "scratch": 32}
    assert loaded.card["validation"] == report["validation"]
    assert sum("epoch" in line for line in lines) == 12


def test_folding_the_normalisation_away_changes_no_answer():
    torch.manual_seed(0)
    network = BilinearDVGG16(NetworkDescription(("a", "b", "c"), width=1 / 16, input_size=32)).double()
    plain = set(network.state_dict())
    batch_norm.insert(network)
    network.double()
    for _ in range(20):
        network.logits(torch.randn(8, 3, 32, 32, dtype=torch.float64))
    pictures = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    expected = network.eval().logits(pictures)
    batch_norm.fold(network)
    assert torch.allclose(network.logits(pictures), expected, atol=1e-9)
    assert set(network.state_dict()) == plain


def test_the_same_seed_gives_the_same_file(tmp_path):
    data = write_folder(tmp_path / "data", 8)
    settings = SCRATCH.with_epochs(2)
    torch.manual_seed(1)
    first = train(data, tmp_path / "a.safetensors", settings)["sha256"]
    torch.manual_seed(2)
    assert train(data, tmp_path / "b.safetensors", settings)["sha256"] == first
    other_seed = Settings(**{**settings.__dict__, "seed": 1})
    assert train(data, tmp_path / "c.safetensors", other_seed)["sha256"] != first


def test_flips_change_what_is_learned(tmp_path):
    data = write_folder(tmp_path / "data", 4)
    plain = train(data, tmp_path / "a.safetensors", SCRATCH.with_epochs(1))["sha256"]
    flipped = Settings(**{**SCRATCH.with_epochs(1).__dict__, "flips": True})
    assert train(data, tmp_path / "b.safetensors", flipped)["sha256"] != plain


def test_phase_1_leaves_the_trunk_alone_and_saves_it_once(tmp_path, trunk_file):
    settings = Settings(str(trunk_file), input_size=32, trunks=1, validation=0.25, phase_1=Phase(3, 1e-3, 64), device="cpu")
    lines: list[str] = []
    report = train(write_folder(tmp_path / "data", 16), tmp_path / "w.safetensors", settings, progress=lines.append)
    network = weights.load(tmp_path / "w.safetensors").network
    assert len(network.trunks) == 1
    assert all(torch.equal(tensor, load_trunk(str(trunk_file))[key]) for key, tensor in network.trunks[0].state_dict().items())
    assert 0 < report["trunk_seconds"] < report["seconds"]
    assert sum("trunk, picture" in line for line in lines) == 3  # 24 pictures in batches of 8: once, not once an epoch
    losses = [float(line.rsplit(" ", 1)[1]) for line in lines if "loss" in line]
    assert losses[-1] < losses[0]


def test_phase_2_trains_four_trunks_apart(tmp_path, trunk_file):
    settings = Settings(str(trunk_file), input_size=32, phase_1=Phase(2, 1e-3, 64), phase_2=Phase(1, 1e-5, 16), device="cpu")
    report = train(write_folder(tmp_path / "data", 4), tmp_path / "w.safetensors", settings)
    loaded = weights.load(tmp_path / "w.safetensors")
    assert report["epochs"] == 3
    assert loaded.description.pretrained == "vgg16.safetensors"
    first, *others = (trunk[28].weight for trunk in loaded.network.trunks)
    assert len(others) == 3
    assert all(not torch.equal(first, other) and torch.allclose(first, other, atol=1e-3) for other in others)


def test_settings_say_which_phases_run():
    paper = Settings()
    assert paper.phases() == (Phase(30, 1e-3, 64), Phase(10, 1e-5, 16))
    assert paper.with_epochs(3).phases() == (Phase(30, 1e-3, 64), Phase(3, 1e-5, 16))
    assert Settings(trunks=1).with_epochs(5).phases() == (Phase(5, 1e-3, 64),)
    assert SCRATCH.with_epochs(7).phases() == (Phase(7, 3e-3, 8, cosine=True),)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(TrainingError, match="width"):
        Settings(pretrained="imagenet", width=0.5)
    with pytest.raises(TrainingError, match="validation"):
        Settings(validation=0.0)


def test_a_training_that_goes_astray_raises(tmp_path):
    settings = Settings(**{**SCRATCH.__dict__, "head": "none", "from_scratch": Phase(3, 1e12, 4)})
    with pytest.raises(TrainingError, match="not finite"):
        train(write_folder(tmp_path / "data", 4), tmp_path / "w.safetensors", settings)
    assert not (tmp_path / "w.safetensors").exists()


def test_an_unreadable_picture_is_named(tmp_path):
    data = write_folder(tmp_path / "data", 3)
    (data / "good" / "002.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"002\.png"):
        train(data, tmp_path / "w.safetensors", SCRATCH)


# --- the evaluation


def test_confusion_counts_the_true_class_in_rows(tmp_path):
    torch.manual_seed(0)
    network = BilinearDVGG16(NetworkDescription(("good", "scratch"), width=1 / 16, input_size=32, trunks=1))
    torch.nn.init.zeros_(network.classifier.weight)
    network.classifier.bias.data = torch.tensor([0.0, 1.0])  # says scratch, always
    weights.save(tmp_path / "w.safetensors", network, {})
    engine = Engine(weights.load(tmp_path / "w.safetensors"), "cpu")
    dataset = read_folder(write_folder(tmp_path / "data", 3))
    evaluation = evaluate(engine, read_pictures([*dataset.samples, Sample(dataset.samples[0].path, 0)]))
    assert evaluation == {"images": 7, "classes": ["good", "scratch"], "confusion": [[0, 4], [0, 3]], "accuracy": 3 / 7}
    with pytest.raises(DatasetError, match="no picture"):
        evaluate(engine, [])
