"""The training of sec. 3.1, from a folder of labelled pictures to a weights file.

Phase 1: VGG16's weights are loaded and held; only the rest is trained. All four trunks are equal then, so one pass of one trunk serves all
four, and since nothing is augmented it is made once a picture and kept for every epoch. Phase 2: four trunks, everything is trained on.

Departures: Adam's beta2 and the number of epochs are not in the paper; `trunks=1` stops after phase 1, a network of a quarter of the size
and time; without pretrained weights there is no phase 1, the learning rate is higher and decays along a cosine, and batches are normalised.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from station.training import batch_norm
from station.training.dataset import Sample, read_folder, split
from station.training.evaluate import Evaluation, evaluate, read_pictures
from station.training.pretrained import load_trunk
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, Head, NetworkDescription, bilinear_pool
from station.vision.engine import Engine, choose_device, make_repeatable
from station.vision.preprocess import normalise, resized_rgb


class TrainingError(Exception):
    """The settings contradict each other, or the training went astray; the message says which and what to change."""


@dataclass(frozen=True)
class Phase:
    """One run of Adam (betas 0.9 and 0.999) over all training pictures, `epochs` times; `cosine` lets the learning rate decay to 0."""

    epochs: int
    learning_rate: float
    batch: int
    cosine: bool = False


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the paper's.

    Attributes:
        pretrained: "imagenet", a file with VGG16's trunk, or "none" to start from random weights.
        width, input_size, trunks, head: as in `NetworkDescription`. Pretrained trunks have width 1.0; with them `trunks=1` is phase 1 only.
        phase_1, phase_2: run with a pretrained trunk.
        from_scratch: runs in their place without one.
        validation: share of the pictures put aside to judge with, above 0 and below 1.
        flips: mirrors pictures at random, both ways, where the trunks are trained; off as in the paper.
        seed: the same seed, pictures, machine and number of threads give the same weights, bit for bit, on a CPU.
        device: as `engine.choose_device`.
    """

    pretrained: str = "imagenet"
    width: float = 1.0
    input_size: int = 448
    trunks: int = 4
    head: Head = "signed_sqrt_l2"
    phase_1: Phase = Phase(epochs=30, learning_rate=1e-3, batch=64)
    phase_2: Phase = Phase(epochs=10, learning_rate=1e-5, batch=16)
    from_scratch: Phase = Phase(epochs=40, learning_rate=1e-3, batch=32, cosine=True)
    validation: float = 0.2
    flips: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.pretrained != "none" and self.width != 1.0:
            raise TrainingError(f"width: {self.width} does not fit VGG16's pretrained trunk; set 1.0, or pretrained to none")
        if not 0 < self.validation < 1:
            raise TrainingError(f"validation: {self.validation} must be above 0 and below 1")

    def phases(self) -> tuple[Phase, ...]:
        """The phases that run, in their order."""
        if self.pretrained == "none":
            return (self.from_scratch,)
        return (self.phase_1,) if self.trunks == 1 else (self.phase_1, self.phase_2)

    def with_epochs(self, epochs: int) -> "Settings":
        """The same with this many epochs in the last phase that runs."""
        if self.pretrained == "none":
            return replace(self, from_scratch=replace(self.from_scratch, epochs=epochs))
        if self.trunks == 1:
            return replace(self, phase_1=replace(self.phase_1, epochs=epochs))
        return replace(self, phase_2=replace(self.phase_2, epochs=epochs))


class Report(TypedDict):
    """What came of a training.

    Keys:
        weights, sha256: the file that was written.
        images: pictures, validation included.
        epochs: of all phases together.
        seconds, trunk_seconds: in all, and of it on passing the pictures through the held trunk (phase 1).
        validation: the pictures put aside, through the engine.
    """

    weights: str
    sha256: str
    images: int
    epochs: int
    seconds: float
    trunk_seconds: float
    validation: Evaluation


def train(
    data: Path,
    output: Path,
    settings: Settings,
    classes: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Trains on `data` (see `dataset.read_folder`), judges on pictures put aside, and writes the weights file `output`.

    Args:
        progress: is told one line of text a step.

    Raises:
        DatasetError: the folder cannot be trained with.
        ValueError: a picture cannot be read, or a setting describes no network.
        WeightsError: the pretrained trunk cannot be had.
        TrainingError: the loss left the finite numbers.
        OSError: `output` cannot be written.
    """
    started = time.perf_counter()
    dataset = read_folder(data, classes)
    training, held_back = split(dataset, settings.validation, settings.seed)
    description = NetworkDescription(
        dataset.classes, settings.width, settings.input_size, settings.trunks, settings.head, pretrained=Path(settings.pretrained).name
    )
    progress(f"{len(training)} pictures to train with, {len(held_back)} to validate with: {dataset.counts()}")
    pictures = _Pictures.read(training, description, choose_device(settings.device))
    make_repeatable(pictures.device)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network, trunk_seconds = _trained(pictures, description, settings, progress)
    validation = evaluate(Engine(weights.LoadedWeights(network, description, {}, ""), settings.device), read_pictures(held_back))
    progress(f"accuracy {validation['accuracy']:.4f} on the {validation['images']} pictures put aside")
    card = {"pictures": dataset.counts(), "settings": asdict(settings) | {"pretrained": description.pretrained}, "validation": validation}
    return Report(
        weights=str(output),
        sha256=weights.save(output, network, card),
        images=len(dataset.samples),
        epochs=sum(phase.epochs for phase in settings.phases()),
        seconds=time.perf_counter() - started,
        trunk_seconds=trunk_seconds,
        validation=validation,
    )


@dataclass(frozen=True, eq=False)
class _Pictures:
    """Training pictures, held in memory at the network's size and normalised a batch at a time."""

    rgb: npt.NDArray[np.uint8]  # (n, S, S, 3)
    labels: Tensor  # int64 (n,)
    description: NetworkDescription
    device: torch.device

    @classmethod
    def read(cls, samples: Sequence[Sample], description: NetworkDescription, device: torch.device) -> "_Pictures":
        size = description.input_size
        rgb = np.empty((len(samples), size, size, 3), dtype=np.uint8)
        for row, (pixels, pixel_format, _) in zip(rgb, read_pictures(samples), strict=True):
            row[:] = resized_rgb(pixels, pixel_format, size)
        return cls(rgb, torch.tensor([sample.label for sample in samples], device=device), description, device)

    def batch(self, index: Tensor) -> Tensor:
        """The network's input of the pictures index (n,), as inspection makes it: float32 (n, 3, S, S), channels-last."""
        return normalise(self.rgb[index.numpy()], "RGB8", self.description).to(self.device)


def _trained(
    pictures: _Pictures, description: NetworkDescription, settings: Settings, progress: Callable[[str], None]
) -> tuple[BilinearDVGG16, float]:
    """The trained network, and the seconds spent on passing pictures through the held trunk."""
    if settings.pretrained == "none":
        network = BilinearDVGG16(description)
        batch_norm.insert(network)
        network = _on(pictures.device, network)
        train_everything(network, pictures, settings.from_scratch, settings.flips, progress)
        batch_norm.fold(network)
        return network, 0.0
    network = BilinearDVGG16(replace(description, trunks=1))
    network.trunks[0].load_state_dict(load_trunk(settings.pretrained))
    network = _on(pictures.device, network)
    trunk_seconds = phase_1(network, pictures, settings.phase_1, progress)
    if settings.trunks == 4:
        network = _on(pictures.device, four_trunks(network, description))
        train_everything(network, pictures, settings.phase_2, settings.flips, progress)
    return network, trunk_seconds


def phase_1(network: BilinearDVGG16, pictures: _Pictures, phase: Phase, progress: Callable[[str], None]) -> float:
    """Trains all but the one trunk, whose outputs are computed once and kept as float16; returns the seconds that took."""
    started = time.perf_counter()
    outputs = []
    with torch.no_grad():
        for index in torch.split(torch.arange(len(pictures.rgb)), 8):
            outputs.append(network.trunks[0](pictures.batch(index)).half().cpu())
            progress(f"phase 1: trunk, picture {int(index[-1]) + 1} of {len(pictures.rgb)}")
    kept = torch.cat(outputs)  # (n, 512, h, w)
    trunk_seconds = time.perf_counter() - started

    def scores(index: Tensor) -> Tensor:
        return network.classify(bilinear_pool(*network.reduce([kept[index].to(pictures.device).float()])))

    trained = [*network.a.parameters(), *network.b.parameters(), *network.classifier.parameters()]
    _descend(scores, trained, pictures.labels, phase, lambda line: progress(f"phase 1: {line}"))
    return trunk_seconds


def four_trunks(network: BilinearDVGG16, description: NetworkDescription) -> BilinearDVGG16:
    """The same function with the network's one trunk four times, each to be trained on by itself."""
    state = network.state_dict()
    for key in [key for key in state if key.startswith("trunks.0.")]:
        state |= {key.replace("trunks.0.", f"trunks.{trunk}."): state[key] for trunk in range(1, 4)}
    whole = BilinearDVGG16(description)
    whole.load_state_dict(state)
    return whole


def train_everything(network: BilinearDVGG16, pictures: _Pictures, phase: Phase, flips: bool, progress: Callable[[str], None]) -> None:
    """Trains the whole network: phase 2, or from scratch."""

    def scores(index: Tensor) -> Tensor:
        batch = pictures.batch(index)
        return network.logits(_mirrored(batch) if flips else batch)

    _descend(scores, network.parameters(), pictures.labels, phase, lambda line: progress(f"all weights: {line}"))


def _descend(
    scores: Callable[[Tensor], Tensor], parameters: Iterable[nn.Parameter], labels: Tensor, phase: Phase, progress: Callable[[str], None]
) -> None:
    """Adam on the cross-entropy of scores(index) -> logits (n, K) against labels (all,), in random order every epoch."""
    optimiser = torch.optim.Adam(parameters, lr=phase.learning_rate, betas=(0.9, 0.999))
    steps = phase.epochs * -(-len(labels) // phase.batch)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps) if phase.cosine else None
    for epoch in range(1, phase.epochs + 1):
        total = 0.0
        for index in torch.split(torch.randperm(len(labels)), phase.batch):
            loss = nn.functional.cross_entropy(scores(index), labels[index])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if decay:
                decay.step()
            total += loss.item() * len(index)
        if not np.isfinite(total):
            raise TrainingError(f"epoch {epoch}: the loss is not finite; lower the learning rate {phase.learning_rate}")
        progress(f"epoch {epoch} of {phase.epochs}, loss {total / len(labels):.5f}")


def _mirrored(batch: Tensor) -> Tensor:
    """Each picture of (n, 3, S, S) as it is, or mirrored left-right, up-down, or both, at random."""
    for axis in (2, 3):
        chosen = torch.rand(len(batch), 1, 1, 1, device=batch.device) < 0.5
        batch = torch.where(chosen, batch.flip(axis), batch)
    return batch


def _on(device: torch.device, network: BilinearDVGG16) -> BilinearDVGG16:
    """The network on the device, channels-last as the pictures are."""
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
