"""Sec. 3.1 from pictures to a weights file: what is trained, what it comes to, and what the file says of it."""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from small_training import GOAL, PHASE_1, Watcher, narrow_channels, small, trained, write_pictures, write_trunk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from station.training import batch_norm, phases
from station.training.checkpoint import Checkpoints
from station.training.dataset import Dataset, DatasetError, Sample, read_folder, read_pictures, split
from station.training.descent import Descent, Phase, Run, TrainingError
from station.training.held_trunk import HeldTrunk
from station.training.look import Look
from station.training.pretrained import load_trunk, trunk_sha256
from station.training.train import Settings, code_version, train
from station.training.trunk_cache import TrunkCache
from station.training.whitening import Whitening
from station.training.workers import Workers
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription, signed_sqrt_l2
from station.vision.parity import reference
from station.vision.preprocess import preprocess

CPU = torch.device("cpu")
SCRATCH = Settings(
    pretrained="none",
    width=1 / 16,
    input_size=32,
    validation=0.25,
    from_scratch=Phase(epochs=12, learning_rate=3e-3, batch=8, at_once=8, cosine=True),
    device="cpu",
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkDescription, "channels", narrow_channels)


@pytest.fixture
def trunk(tmp_path: Path, narrow: None) -> str:  # noqa: ARG001
    return write_trunk(tmp_path / "vgg16.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "data", 8)


def part(class_name: str, seed: int) -> np.ndarray:
    """A grey noisy surface, RGB; a scratched one has a bright line across."""
    rng = np.random.default_rng(seed)
    surface = rng.normal(110, 12, (40, 48, 3)).clip(0, 255).astype(np.uint8)
    if class_name == "scratch":
        x, y = (int(value) for value in rng.integers(8, 32, 2))
        cv2.line(surface, (x - 8, y - 6), (x + 8, y + 6), (250, 240, 230), 3)
    return surface


def write_parts(folder: Path, count: int) -> Path:
    for name in ("good", "scratch"):
        (folder / name).mkdir(parents=True)
        for seed in range(count):
            cv2.imwrite(str(folder / name / f"{seed:03}.png"), part(name, seed))
    return folder


def card(file: Path) -> Any:
    return weights.load(file).card


# --- from scratch


def test_a_network_trained_from_scratch_tells_the_classes_apart(tmp_path: Path) -> None:
    lines: list[str] = []
    report = trained(write_parts(tmp_path / "data", 32), tmp_path / "plate.safetensors", SCRATCH, lines)
    loaded = weights.load(tmp_path / "plate.safetensors")
    engine = reference(loaded, "cpu")
    right = [
        engine.see(part(name, seed), "RGB8").probabilities.argmax() == label
        for label, name in enumerate(("good", "scratch"))
        for seed in range(1000, 1025)
    ]
    assert np.mean(right) >= 0.98
    assert report["validation"]["accuracy"] >= 0.9
    assert (report["images"], report["validation"]["images"], report["epochs"]) == (64, 16, 12)
    assert (report["trunk_seconds"], report["trunk_passes"]) == (0, 0)
    assert (report["weights"], report["sha256"]) == (str(tmp_path / "plate.safetensors"), loaded.sha256)
    assert loaded.description.classes == ("good", "scratch")
    assert loaded.card["pictures"] == {"good": 32, "scratch": 32}
    assert sum("epoch" in line for line in lines) == 12


def test_pictures_held_back_are_judged_by_the_network_that_is_saved(tmp_path: Path) -> None:
    """Normalised by the averages of the training, not by one another."""
    data = write_parts(tmp_path / "data", 12)
    trained(data, tmp_path / "plate.safetensors", SCRATCH.with_epochs(3))
    loaded, held_back = weights.load(tmp_path / "plate.safetensors"), split(read_folder(data), SCRATCH.validation, SCRATCH.seed)[1]
    pictures = torch.cat([preprocess(pixels, form, loaded.description) for pixels, form, _ in read_pictures(held_back)])
    logits, labels = loaded.network.logits(pictures), torch.tensor([sample.label for sample in held_back])
    last = card(tmp_path / "plate.safetensors")["epochs"]["from scratch"][-1]
    assert last["held_back_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert last["held_back_accuracy"] == (logits.argmax(dim=1) == labels).float().mean()


def test_a_new_network_is_the_seeds_and_leaves_torchs_random_numbers_alone() -> None:
    description = NetworkDescription(("a", "b"), width=1 / 16, input_size=32)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    networks = [phases.new_network(description, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    first, same, other = (network.classifier.weight for network in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_folding_the_normalisation_away_changes_no_answer() -> None:
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


def test_the_same_seed_gives_the_same_file(tmp_path: Path, data: Path) -> None:
    settings = SCRATCH.with_epochs(4)

    def sha256(name: str, settings: Settings, random: int) -> str:
        torch.manual_seed(random)
        return trained(data, tmp_path / f"{name}.safetensors", settings)["sha256"]

    first = sha256("first", settings, random=1)
    assert sha256("second", settings, random=2) == first
    assert sha256("third", replace(settings, seed=1), random=1) != first


# --- phase 1


def test_phase_1_leaves_the_trunk_alone_and_saves_it_once(tmp_path: Path) -> None:
    """At full width: as it runs where it is used."""
    trunk = write_trunk(tmp_path / "vgg16.safetensors")
    lines: list[str] = []
    report = trained(write_pictures(tmp_path / "data", 6), tmp_path / "plate.safetensors", small(trunk), lines)
    network = weights.load(tmp_path / "plate.safetensors").network
    assert len(network.trunks) == 1
    assert all(torch.equal(tensor, load_trunk(trunk)[key]) for key, tensor in network.trunks[0].state_dict().items())
    assert 0 < report["trunk_seconds"] < report["seconds"]
    assert report["trunk_passes"] == 12
    assert sum("phase 1: epoch" in line for line in lines) == 3
    losses = [epoch["loss"] for epoch in card(tmp_path / "plate.safetensors")["epochs"]["phase 1"]]
    assert losses[-1] < losses[0]


class Literal(nn.Module):
    """Phase 1 as it is written: four trunks that hold the same weights and are not trained, and behind each a 1x1 convolution that is."""

    def __init__(self, trunk: nn.Module, whitening: Whitening, rest: nn.ModuleDict) -> None:
        super().__init__()
        self.trunks = nn.ModuleList(copy.deepcopy(trunk) for _ in range(4)).requires_grad_(False)
        self.whitening = whitening
        self.reduce = nn.ModuleList()
        for layer in (rest["a"], rest["b"]):
            for weight, bias in zip(layer.weight.detach().chunk(2), layer.bias.detach().chunk(2), strict=True):  # type: ignore[operator]
                convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
                convolution.load_state_dict({"weight": weight[:, :, None, None], "bias": bias})
                self.reduce.append(convolution)
        self.classifier = copy.deepcopy(rest["classifier"])

    def forward(self, pictures: Tensor, head: str) -> Tensor:
        maps = [reduce(self.whitening(trunk(pictures))) for trunk, reduce in zip(self.trunks, self.reduce, strict=True)]
        f_a, f_b = torch.cat(maps[:2], dim=1), torch.cat(maps[2:], dim=1)
        phi = torch.einsum("nahw,nbhw->nab", f_a, f_b)
        logits: Tensor = self.classifier((phi if head == "none" else signed_sqrt_l2(phi)).flatten(1))
        return logits


def literal_phase_1(literal: Literal, settings: Settings, pictures: Tensor, labels: Tensor, training: list[int]) -> Tensor:
    """Every epoch, every picture, every trunk; the logits of all pictures afterwards."""
    trained = [parameter for parameter in literal.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, lr=1e-3, betas=(0.9, 0.999))
    for epoch in range(settings.phase_1.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(training))
        for start in range(0, len(training), settings.phase_1.batch):
            batch = [training[position] for position in order[start : start + settings.phase_1.batch]]
            loss = nn.functional.cross_entropy(literal(pictures[batch], settings.head), labels[batch])
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
    with torch.no_grad():
        logits: Tensor = literal(pictures, settings.head)
    return logits


class First(dict[str, Any]):
    """What a phase 1 starts from, taken down as it starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        of, train = Whitening.of, Descent.train

        def noted_of(moments: Tensor) -> Whitening:
            self["positions"] = int(moments[-1, -1])
            whitening = self["whitening"] = of(moments)
            return whitening

        def noted_train(descent: Descent) -> Any:
            self["rest"] = copy.deepcopy(descent._task.module)
            return train(descent)

        monkeypatch.setattr(Whitening, "of", noted_of)
        monkeypatch.setattr(Descent, "train", noted_train)


HARD = {"good": 100, "stain": 130}
SIX_EPOCHS = Phase(epochs=6, learning_rate=1e-3, batch=6, at_once=4)


def as_written(first: First, network: BilinearDVGG16, dataset: Dataset, settings: Settings) -> tuple[Tensor, Tensor]:
    """All pictures, and their logits after a literal phase 1 from the same start."""
    dtype = torch.get_default_dtype()
    pictures = torch.cat([preprocess(pixels, form, network.description) for pixels, form, _ in read_pictures(dataset.samples)]).to(dtype)
    labels = torch.tensor([sample.label for sample in dataset.samples])
    literal = Literal(network.trunks[0], first["whitening"], first["rest"])
    training = dataset.positions(split(dataset, settings.validation, settings.seed)[0])
    return pictures, literal_phase_1(literal, settings, pictures, labels, training)


@pytest.mark.parametrize("head", ["none", "signed_sqrt_l2"])
def test_phase_1_is_the_literal_one(tmp_path: Path, trunk: str, head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 pictures, 18 steps, in float64 and with a cache that rounds nothing.

    In float32 the literal phase 1 is as far from exact as ours: where phi is near 0 its square root, and where a gradient is near 0 Adam,
    make a whole step of a rounding.
    """

    def exact(cache: TrunkCache, sample: Sample) -> Any:
        ((pixels, form, _),) = read_pictures([sample])
        with torch.inference_mode():
            return cache._trunk(preprocess(pixels, form, cache._description).double())[0].numpy()

    monkeypatch.setattr(TrunkCache, "_pass", exact)
    first, settings = First(monkeypatch), small(trunk, head=head, phase_1=SIX_EPOCHS)
    dataset = read_folder(write_pictures(tmp_path / "data", 10, HARD, noise=60))
    training = torch.tensor(dataset.positions(split(dataset, settings.validation, settings.seed)[0]))
    description = NetworkDescription(dataset.classes, input_size=32, head=head)
    run = Run(settings.seed, Checkpoints(tmp_path / "checkpoints"), Watcher(), Workers())
    torch.set_default_dtype(torch.float64)
    try:
        network = phases.one_trunk(description, load_trunk(trunk), settings.seed, CPU)
        held = HeldTrunk(TrunkCache(tmp_path / "cache", network.trunks[0], description, CPU), dataset.samples, run)
        phases.phase_1(network, held, training, torch.arange(0), settings.phase_1, run)
        pictures, literal = as_written(first, network, dataset, settings)
        ours = network.logits(pictures)
    finally:
        torch.set_default_dtype(torch.float32)
    assert first["positions"] == 2 * 2 * len(training) == 64  # of those held back nothing is known at the start
    assert ours.shape == (20, 2)
    assert (ours - literal).abs().max() < 1e-9


@pytest.mark.parametrize("head", ["none", "signed_sqrt_l2"])
def test_the_caches_float16_costs_little(tmp_path: Path, trunk: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights file of a whole training, beside the literal phase 1 in float32: under a five-hundredth of the range of all logits."""
    first, settings = First(monkeypatch), small(trunk, head=head, phase_1=SIX_EPOCHS)
    data = write_pictures(tmp_path / "data", 10, HARD, noise=60)
    trained(data, tmp_path / "plate.safetensors", settings)
    network = weights.load(tmp_path / "plate.safetensors").network
    pictures, literal = as_written(first, network, read_folder(data), settings)
    assert (network.logits(pictures) - literal).abs().max() < 0.002 * (literal.max() - literal.min())


# --- phase 2


def test_phase_2_starts_from_phase_1_and_trains_four_trunks_apart(
    tmp_path: Path, trunk: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[BilinearDVGG16] = []
    four_trunks = phases.four_trunks

    def noted(network: BilinearDVGG16, description: NetworkDescription) -> BilinearDVGG16:
        whole = four_trunks(network, description)
        starts.extend((copy.deepcopy(network), copy.deepcopy(whole)))
        return whole

    monkeypatch.setattr("station.training.train.four_trunks", noted)
    report = trained(data, tmp_path / "plate.safetensors", small(trunk, trunks=4))
    loaded = weights.load(tmp_path / "plate.safetensors")
    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(starts[1].logits(pictures), starts[0].logits(pictures), atol=1e-5)
    assert report["epochs"] == 5
    assert loaded.description.trunks == 4
    assert loaded.description.pretrained == "vgg16.safetensors"
    start = load_trunk(trunk)
    for key, before in start.items():
        after = [trunk.state_dict()[key] for trunk in loaded.network.trunks]
        assert len(after) == 4
        assert all(torch.allclose(one, before, atol=1e-2) for one in after)
        if key.endswith("weight"):
            assert not any(torch.equal(one, before) for one in after)
            assert not any(torch.equal(after[0], other) for other in after[1:])


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_papers_batches_fit_any_memory(tmp_path: Path, trunk: str, at_once: int) -> None:
    """A batch of five at once, or one or three pictures of it. A change is small beside the weights: they would be alike without it."""
    data = write_pictures(tmp_path / "data", 8, HARD, noise=60)

    def state(pictures: int) -> tuple[dict[str, Tensor], Tensor]:
        """All weights, and by how much those of the trunks changed."""
        phases = {"phase_1": replace(PHASE_1, at_once=pictures), "phase_2": Phase(epochs=2, learning_rate=1e-5, batch=5, at_once=pictures)}
        trained(data, tmp_path / f"{pictures}.safetensors", small(trunk, trunks=4, head="none", **phases))
        network, start = weights.load(tmp_path / f"{pictures}.safetensors").network, load_trunk(trunk)
        changes = [(trunk.state_dict()[key] - before).flatten() for trunk in network.trunks for key, before in start.items()]
        return network.state_dict(), torch.cat(changes)

    (whole, whole_change), (parted, parted_change) = state(5), state(at_once)
    assert all((parted[key] - whole[key]).abs().max() < 1e-5 for key in whole)
    assert (parted_change - whole_change).norm() < 1e-3 * whole_change.norm()


# --- what the file says


def test_the_card_says_how_the_network_came_to_be(tmp_path: Path, trunk: str, data: Path) -> None:
    settings = small(trunk, trunks=4, seed=3)
    report = trained(data, tmp_path / "plate.safetensors", settings)
    dataset, found = read_folder(data), card(tmp_path / "plate.safetensors")
    training, held_back = split(dataset, settings.validation, settings.seed)
    assert found["pictures"] == {"good": 8, "stain": 8}
    assert found["data_sha256"] == dataset.sha256
    assert found["split"] == {
        "seed": 3,
        "training": sorted(sample.sha256[:16] for sample in training),
        "held_back": sorted(sample.sha256[:16] for sample in held_back),
    }
    assert found["settings"] == {**asdict(settings), "pretrained": "vgg16.safetensors"}
    assert found["pretrained_sha256"] == trunk_sha256(load_trunk(trunk))
    assert {phase: len(epochs) for phase, epochs in found["epochs"].items()} == {"phase 1": 3, "phase 2": 2}
    assert all(epoch.keys() == {"loss", "held_back_loss", "held_back_accuracy"} for epochs in found["epochs"].values() for epoch in epochs)
    assert found["cross_validation"] is None
    assert found["validation"] == report["validation"]
    assert report["validation"]["images"] == len(held_back) == 4
    assert (report["validation"]["good"], report["validation"]["minimum_probability"]) == (["good"], GOAL.minimum_probability)
    assert found["code"] == code_version()


def test_any_change_to_the_code_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("station.training.train.__file__", str(tmp_path / "train.py"))
    versions = []
    for text in ("a = 1", "a = 2"):
        (tmp_path / "phases.py").write_text(text)
        versions.append(code_version()["sha256"])
    assert len(set(versions)) == 2


def test_nothing_in_the_file_says_where_it_was_made(tmp_path: Path, trunk: str, data: Path) -> None:
    trained(data, tmp_path / "plate.safetensors", small(trunk))
    assert str(tmp_path).encode() not in (tmp_path / "plate.safetensors").read_bytes()


def test_the_golden_pictures_and_the_self_tests_were_never_trained_on(tmp_path: Path, trunk: str, data: Path) -> None:
    settings = small(trunk)
    report = trained(data, tmp_path / "plate.safetensors", settings)
    loaded, dataset = weights.load(tmp_path / "plate.safetensors"), read_folder(data)
    held_back = {str(sample.path): sample for sample in split(dataset, settings.validation, settings.seed)[1]}
    assert len(loaded.golden) == 2
    assert {int(golden.probabilities.argmax()) for golden in loaded.golden} == {0, 1}
    inputs = [preprocess(pixels, form, loaded.description) for pixels, form, _ in read_pictures(held_back.values())]
    for golden in loaded.golden:
        assert any(torch.equal(preprocess(golden.rgb, "RGB8", loaded.description), one) for one in inputs)
    engine = reference(loaded, "cpu")
    assert report["self_test"].keys() == {"good", "stain"}
    for name, path in report["self_test"].items():
        ((pixels, form, label),) = read_pictures([held_back[path]])
        assert dataset.classes[label] == name
        assert engine.see(pixels, form).probabilities.argmax() == label


@pytest.mark.parametrize(("head", "alike"), [("none", 0.999), ("signed_sqrt_l2", 0.97)])
def test_what_the_cache_says_of_a_picture_is_what_the_engine_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, alike: float
) -> None:
    """At full width: phase 1 is judged without another trunk pass.

    The square root's slope is steep where phi is near 0, so that head's heat map feels the cache's float16.
    """
    looks: list[Look] = []
    said = HeldTrunk.looks

    def noted(held: HeldTrunk, network: BilinearDVGG16, index: Tensor) -> tuple[Look, ...]:
        looks.extend(said(held, network, index))
        return tuple(looks)

    monkeypatch.setattr(HeldTrunk, "looks", noted)
    settings = small(write_trunk(tmp_path / "vgg16.safetensors"), input_size=64, head=head)
    data = write_pictures(tmp_path / "data", 8, HARD, noise=60)
    trained(data, tmp_path / "plate.safetensors", settings)
    engine = reference(weights.load(tmp_path / "plate.safetensors"), "cpu")
    assert [look.sample for look in looks] == list(split(read_folder(data), settings.validation, settings.seed)[1])
    for look, (pixels, form, _) in zip(looks, read_pictures([look.sample for look in looks]), strict=True):
        seen = engine.see(pixels, form)
        assert look.size == (48, 40)
        assert np.abs(look.probabilities - seen.probabilities).max() < 1e-3
        assert look.heat_map.dtype == np.uint8
        assert look.heat_map.shape == seen.heat_map.shape == (4, 4)
        assert np.corrcoef(look.heat_map.ravel(), seen.heat_map.ravel())[0, 1] > alike


def test_tensorboard_draws_the_figures_of_the_card(tmp_path: Path, trunk: str, data: Path) -> None:
    trained(data, tmp_path / "plate.safetensors", small(trunk, trunks=4))
    curves = EventAccumulator(str(tmp_path / "plate/curves"))
    curves.Reload()
    drawn = {tag: [(event.step, event.value) for event in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}
    epochs = card(tmp_path / "plate.safetensors")["epochs"]
    assert drawn == {
        f"{phase}/{curve}": [(number, pytest.approx(epoch[curve], rel=1e-6)) for number, epoch in enumerate(epochs[phase], start=1)]
        for phase in ("phase 1", "phase 2")
        for curve in ("loss", "held_back_loss", "held_back_accuracy")
    }


# --- refused


def test_settings_say_which_phase_ends_the_training() -> None:
    paper = Settings()
    assert (paper.phase_1.epochs, paper.phase_1.learning_rate, paper.phase_1.batch) == (60, 1e-3, 64)
    assert (paper.phase_2.epochs, paper.phase_2.learning_rate, paper.phase_2.batch) == (10, 1e-5, 16)
    assert paper.with_epochs(3) == replace(paper, phase_1=replace(paper.phase_1, epochs=3))
    both = replace(paper, trunks=4)
    assert both.with_epochs(3) == replace(both, phase_2=replace(both.phase_2, epochs=3))
    assert SCRATCH.with_epochs(3) == replace(SCRATCH, from_scratch=replace(SCRATCH.from_scratch, epochs=3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0.5}, "width"),
        ({"input_size": 40}, "input_size"),
        ({"trunks": 2}, "trunks"),
        ({"pretrained": "none", "width": 0.0}, "width"),
        ({"seed": -1}, "seed"),
        ({"validation": 0.0}, "validation"),
        ({"validation": 1.0}, "validation"),
        ({"folds": 1}, "folds"),
        ({"folds": -2}, "folds"),
        ({"folds": 2, "pretrained": "none"}, "folds"),
        ({"folds": 2, "trunks": 4}, "folds"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        Settings(**settings)


def test_several_processes_do_not_train_from_scratch(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would normalise its own part of a batch."""
    monkeypatch.setattr("station.training.train.workers", lambda _: nullcontext(Workers(0, 2)))
    with pytest.raises(TrainingError, match=r"pretrained: none: .* run one process"):
        trained(data, tmp_path / "plate.safetensors", SCRATCH)


@pytest.mark.parametrize("phase", ["phase_1", "from_scratch"])
def test_a_training_that_goes_astray_leaves_no_weights(tmp_path: Path, trunk: str, data: Path, phase: str) -> None:
    settings = small("none" if phase == "from_scratch" else trunk, head="none", **{phase: Phase(3, 1e20, 5, 5)})
    with pytest.raises(TrainingError, match=r"epoch \d: the loss is not finite; lower the learning rate 1e\+20"):
        trained(data, tmp_path / "plate.safetensors", settings)
    assert not (tmp_path / "plate.safetensors").exists()


def test_a_network_that_is_right_about_nothing_leaves_no_weights(tmp_path: Path, trunk: str, data: Path) -> None:
    """What is held back looks like the other class."""
    settings = small(trunk)
    held_back = split(read_folder(data), settings.validation, settings.seed)[1]
    write_pictures(tmp_path / "twins", 8, {"good": 190, "stain": 60})
    for sample in held_back:
        (tmp_path / "twins" / sample.path.parent.name / sample.path.name).replace(sample.path)
    with pytest.raises(TrainingError, match="right about no picture that it never saw"):
        trained(data, tmp_path / "plate.safetensors", settings)
    assert not (tmp_path / "plate.safetensors").exists()


def test_a_picture_that_is_gone_before_the_training_is_named(tmp_path: Path, trunk: str, data: Path) -> None:
    dataset = read_folder(data)
    (data / "good/002.png").unlink()
    with pytest.raises(DatasetError, match=r"002\.png"):
        train(dataset, tmp_path / "plate.safetensors", small(trunk), GOAL, tmp_path / "work")


def test_few_pictures_make_as_many_steps_as_many_do() -> None:
    default = Settings()
    assert default.phase_1_for(5000) == default.phase_1
    few = default.phase_1_for(96)  # two steps an epoch
    assert (few.epochs, few.patience, few.batch) == (200, 50, 64)
    assert default.with_epochs(5).phase_1_for(96).epochs == 5
