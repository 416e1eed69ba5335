"""The training of sec. 3.1, from labelled pictures to a weights file.

Phase 1: VGG16's weights are loaded and held; only the rest is trained. All four trunks are equal then, so one pass of one trunk a picture
serves all four and every epoch. Phase 2: four trunks, everything is trained on.

Departures: Adam's beta2 and the number of epochs are not in the paper; pictures held back choose how many, or a cross-validation.
`trunks=1` stops after phase 1: a network of a quarter of the size and time. Without pretrained weights there is no phase 1, the learning
rate is higher and decays along a cosine, and batches are normalised.
"""

import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from station.training.checkpoint import Checkpoints
from station.training.crossvalidate import CrossValidation, CrossValidator
from station.training.dataset import Dataset, Sample, read_pictures, split
from station.training.descent import Epoch, Phase, Run, TrainingError
from station.training.evaluate import Evaluation, evaluation
from station.training.golden import golden
from station.training.held_trunk import HeldTrunk
from station.training.look import Look
from station.training.phases import four_trunks, from_scratch, new_network, one_trunk, phase_1, phase_2
from station.training.pictures import Pictures
from station.training.pretrained import load_trunk, trunk_sha256
from station.training.training_log import training_log
from station.training.trunk_cache import TrunkCache
from station.training.workers import workers
from station.vision import weights
from station.vision.dvgg16 import BilinearDVGG16, Head, NetworkDescription
from station.vision.engine import choose_device, make_repeatable
from station.vision.parity import reference

PHASE_1 = Phase(epochs=60, learning_rate=1e-3, batch=64, at_once=8, patience=8)
PHASE_2 = Phase(epochs=10, learning_rate=1e-5, batch=16, at_once=2, patience=3)
FROM_SCRATCH = Phase(epochs=40, learning_rate=1e-3, batch=32, at_once=32, cosine=True)
_STEPS, _PATIENT_STEPS = 400, 100
"""Of phase 1 at least: thirty pictures a class are two steps an epoch, and no epoch of two steps is a reason to stop."""
_GOLDEN_CANDIDATES = 3
"""Pictures of a class from which its golden one is chosen."""


@dataclass(frozen=True)
class Settings:
    """How to train; learning rates and batches are the paper's.

    Attributes:
        pretrained: "imagenet", a file with VGG16's trunk, or "none" to start from random weights.
        width, input_size, trunks, head: as in `NetworkDescription`. Pretrained trunks have width 1.0; with them `trunks=1` is phase 1 only.
        phase_1, phase_2: run with a pretrained trunk.
        from_scratch: runs in their place without one.
        validation: share of the pictures held back to judge with, above 0 and below 1.
        folds: 2 or more cross-validate phase 1, which chooses head and epochs; then all pictures are trained on. 0 holds back `validation`.
        seed: 0 or more; the same seed, pictures, machine and number of threads give the same weights, bit for bit, on a CPU.
        device: as `engine.choose_device`.
    """

    pretrained: str = "imagenet"
    width: float = 1.0
    input_size: int = 448
    trunks: int = 1
    head: Head = "signed_sqrt_l2"
    phase_1: Phase = PHASE_1
    phase_2: Phase = PHASE_2
    from_scratch: Phase = FROM_SCRATCH
    validation: float = 0.2
    folds: int = 0
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.pretrained != "none" and self.width != 1.0:
            raise TrainingError(f"width: {self.width} does not fit VGG16's pretrained trunk; set 1.0, or pretrained to none")
        try:
            NetworkDescription(("a", "b"), self.width, self.input_size, self.trunks, self.head)
        except ValueError as error:
            raise TrainingError(str(error)) from error
        if self.seed < 0:
            raise TrainingError(f"seed: {self.seed} must be 0 or more")
        if not 0 < self.validation < 1:
            raise TrainingError(f"validation: {self.validation} must be above 0 and below 1")
        if self.folds and (self.folds < 2 or self.pretrained == "none" or self.trunks == 4):
            raise TrainingError(f"folds: {self.folds}: a cross-validation needs 2 or more, and a pretrained trunk that is held: trunks 1")

    @property
    def last_phase(self) -> str:
        """The field of the phase that ends the training."""
        if self.pretrained == "none":
            return "from_scratch"
        return "phase_1" if self.trunks == 1 else "phase_2"

    def phase_1_for(self, pictures: int) -> Phase:
        """Phase 1, its default stretched so that few pictures make no fewer steps."""
        if self.phase_1 != PHASE_1:
            return self.phase_1
        steps = -(-pictures // PHASE_1.batch)
        return replace(PHASE_1, epochs=max(PHASE_1.epochs, _STEPS // steps), patience=max(PHASE_1.patience, _PATIENT_STEPS // steps))

    def with_epochs(self, epochs: int) -> "Settings":
        """The same with at most this many epochs in the last phase that runs."""
        phase: Phase = getattr(self, self.last_phase)
        return replace(self, **{self.last_phase: replace(phase, epochs=epochs)})  # type: ignore[arg-type]


class Report(TypedDict):
    """What came of a training.

    Keys:
        weights, sha256: the file that was written.
        images: pictures, those held back included.
        epochs: that the network was trained for, in all phases together.
        seconds, trunk_seconds: in all, and of it until every picture had passed the held trunk (phase 1).
        trunk_passes: pictures that passed it now; those of earlier trainings were found on disk.
        validation: of pictures the judging network never saw: those held back, or each by its fold of the cross-validation.
        cross_validation: what was tried and chosen.
        self_test: for each class the picture that the judging network is right and surest about.
    """

    weights: str
    sha256: str
    images: int
    epochs: int
    seconds: float
    trunk_seconds: float
    trunk_passes: int
    validation: Evaluation
    cross_validation: NotRequired[CrossValidation]
    self_test: dict[str, str]


@dataclass(frozen=True)
class Goal:
    """What the network is for: the classes that may pass, and from which probability on."""

    good: tuple[str, ...]
    minimum_probability: float


def train(
    dataset: Dataset, output: Path, settings: Settings, goal: Goal, work: Path, progress: Callable[[str], None] = lambda _: None
) -> Report | None:
    """Trains on the pictures, judges on those it did not see, and writes the weights file `output`.

    Killed and called again with the same arguments it goes on where it was, until the caller deletes `work`/checkpoints. Under `torchrun`
    every process calls it; one writes and gets the report, the others None.

    Args:
        work: checkpoints and curves go here; what the held trunk made of the pictures beside it, where other trainings find it.
        progress: is told one line of text a step.

    Raises:
        DatasetError: the pictures cannot be trained with.
        ValueError: a picture cannot be read, or a setting describes no network.
        WeightsError: the pretrained trunk cannot be had.
        TrainingError: the loss left the finite numbers, or the network is right about no picture.
        OSError: a file cannot be written.
    """
    began_s = time.monotonic()
    device = choose_device(settings.device)
    make_repeatable(device)
    trunk = {} if settings.pretrained == "none" else load_trunk(settings.pretrained)
    work.mkdir(parents=True, exist_ok=True)
    with workers(device) as together, training_log(work / "curves", progress, together.leads) as log:
        identity = {
            "settings": asdict(settings),
            "pictures": [(sample.label, sample.sha256) for sample in dataset.samples],
            "trunk": trunk_sha256(trunk),
            "code": code_version(),
        }
        run = Run(settings.seed, Checkpoints.of(work / "checkpoints", identity, together.leads), log, together)
        if together.count > 1 and settings.pretrained == "none":
            raise TrainingError("pretrained: none: its batches are normalised, which takes them whole; run one process")
        job = _Job(dataset, settings, trunk, work, device, run)
        trained = job.from_scratch() if settings.pretrained == "none" else job.from_pretrained()
        report = _write(output, trained, job, goal, began_s) if together.leads else None
        together.wait()
    return report


@dataclass(frozen=True, eq=False)
class _Trained:
    """A trained network, and how it came to be.

    Attributes:
        epochs: of each phase, by its name.
        training: indices of the pictures it was trained on.
        looks: at pictures that the judging network never saw: the ones held back, or all, each by its fold of the cross-validation.
        pretrained: SHA-256 of the trunk it started from.
        trunk_seconds, trunk_passes: as in `Report`.
    """

    network: BilinearDVGG16
    epochs: dict[str, tuple[Epoch, ...]]
    training: Tensor
    looks: tuple[Look, ...]
    pretrained: str = ""
    trunk_seconds: float = 0.0
    trunk_passes: int = 0
    cross_validation: CrossValidation | None = None


@dataclass(frozen=True, eq=False)
class _Job:
    """One training: sec. 3.1 with its pictures and settings."""

    dataset: Dataset
    settings: Settings
    trunk: dict[str, Tensor]
    work: Path
    device: torch.device
    run: Run

    def description(self, head: Head) -> NetworkDescription:
        """Of the network that is to come of it."""
        s = self.settings
        return NetworkDescription(self.dataset.classes, s.width, s.input_size, s.trunks, head, pretrained=Path(s.pretrained).name)

    def from_pretrained(self) -> _Trained:
        """Starts from VGG16's weights and runs phase 1 and, for four trunks, phase 2."""
        settings, description = self.settings, self.description(self.settings.head)
        start = one_trunk(description, self.trunk, settings.seed, self.device)
        cache = TrunkCache(self.work.parent / "trunk.cache", start.trunks[0], description, self.device)
        held = HeldTrunk(cache, self.dataset.samples, self.run)
        if settings.folds:
            return self._cross_validated(held, description)
        training, held_back = self._sides()
        epochs = {"phase 1": phase_1(start, held, training, held_back, settings.phase_1_for(len(training)), self.run)}
        network = start
        if settings.trunks == 4:
            network = four_trunks(start, description)
            epochs["phase 2"] = phase_2(network, self._pictures(), training, held_back, settings.phase_2, self.run)
        looks = held.looks(network, held_back) if network is start else self._looks(network, held_back)
        return _Trained(network, epochs, training, looks, trunk_sha256(self.trunk), held.seconds, held.passes)

    def _cross_validated(self, held: HeldTrunk, description: NetworkDescription) -> _Trained:
        """Phase 1 on all pictures, with the head and for as many epochs as a cross-validation says."""
        validator = CrossValidator(self.dataset, held, self.trunk, description, self.settings.phase_1, self.settings.folds, self.run)
        chosen = validator.choose()
        looks = validator.looks(chosen)
        self.run.log.say(f"chosen: head {chosen['head']}, {chosen['epochs']} epochs, accuracy {chosen['accuracy']:.4f} over the folds")
        network = one_trunk(replace(description, head=chosen["head"]), self.trunk, self.settings.seed, self.device)
        everything, nothing = torch.arange(len(self.dataset.samples)), torch.arange(0)
        phase = replace(self.settings.phase_1, epochs=chosen["epochs"])
        epochs = {"phase 1": phase_1(network, held, everything, nothing, phase, self.run)}
        return _Trained(network, epochs, everything, looks, trunk_sha256(self.trunk), held.seconds, held.passes, chosen)

    def from_scratch(self) -> _Trained:
        """Trains everything from random weights."""
        training, held_back = self._sides()
        network = new_network(self.description(self.settings.head), self.settings.seed)
        epochs = from_scratch(network, self._pictures(), training, held_back, self.settings.from_scratch, self.run)
        return _Trained(network, {"from scratch": epochs}, training, self._looks(network, held_back))

    def _sides(self) -> tuple[Tensor, Tensor]:
        """Indices of the pictures to train on, and of those held back."""
        training, held_back = split(self.dataset, self.settings.validation, self.settings.seed)
        self.run.log.say(f"{len(training)} pictures to train on, {len(held_back)} held back: {self.dataset.counts()}")
        return torch.tensor(self.dataset.positions(training)), torch.tensor(self.dataset.positions(held_back))

    def _pictures(self) -> Pictures:
        return Pictures(self.dataset.samples, self.description(self.settings.head), self.work, self.device)

    def _looks(self, network: BilinearDVGG16, index: Tensor) -> tuple[Look, ...]:
        """What the network says of the pictures index (n,), through the engine that is deployed."""
        engine = reference(weights.LoadedWeights(network, network.description, {}, "", ()), self.settings.device)
        looks = []
        for sample in (self.dataset.samples[position] for position in index.tolist()):
            ((pixels, pixel_format, _),) = read_pictures([sample])
            seen = engine.see(pixels, pixel_format)
            looks.append(Look(sample, (pixels.shape[1], pixels.shape[0]), seen.probabilities, seen.heat_map))
        return tuple(looks)


def code_version() -> dict[str, str]:
    """What computed: the station's version, a hash of the code of vision and training, and torch's version."""
    digest = hashlib.sha256()
    rooms = Path(__file__).parent, Path(weights.__file__).parent
    for file in sorted(file for room in rooms for file in room.glob("*.py")):
        digest.update(file.read_bytes())
    return {"station": importlib.metadata.version("station"), "sha256": digest.hexdigest()[:16], "torch": torch.__version__}


def _write(output: Path, trained: _Trained, job: _Job, goal: Goal, began_s: float) -> Report:
    """Judges the network, puts down how it came to be, and writes the file."""
    dataset, network = job.dataset, trained.network
    validation = evaluation(trained.looks, dataset.classes, goal.good, goal.minimum_probability)
    validation["warnings"].append("these pictures also chose when to stop, or what to train: the numbers are a little too good")
    job.run.log.say(f"accuracy {validation['accuracy']:.4f} on {validation['images']} pictures that the judging network never saw")
    training = {dataset.samples[index].sha256[:16] for index in trained.training.tolist()}
    held_back = {sample.sha256[:16] for sample in dataset.samples} - training
    card = {
        "pictures": dataset.counts(),
        "data_sha256": dataset.sha256,
        "split": {"seed": job.settings.seed, "training": sorted(training), "held_back": sorted(held_back)},
        "settings": asdict(job.settings) | {"pretrained": network.description.pretrained},
        "pretrained_sha256": trained.pretrained,
        "epochs": {phase: [asdict(epoch) for epoch in epochs] for phase, epochs in trained.epochs.items()},
        "cross_validation": trained.cross_validation,
        "validation": validation,
        "code": code_version(),
    }
    right = [look for look in trained.looks if look.probabilities.argmax() == look.sample.label]
    right.sort(key=lambda look: float(look.probabilities.max()))
    engine = reference(weights.LoadedWeights(network, network.description, {}, "", ()), job.settings.device)
    scores = golden(engine, read_pictures(_first_of_each_class(right, _GOLDEN_CANDIDATES)))
    if not scores:
        raise TrainingError(
            "the network is right about no picture that it never saw; train longer, or look at the pictures and their labels"
        )
    surest = _first_of_each_class(right[::-1], 1)
    report = Report(
        weights=str(output),
        sha256=weights.save(output, network, card, scores),
        images=len(dataset.samples),
        epochs=sum(map(len, trained.epochs.values())),
        seconds=time.monotonic() - began_s,
        trunk_seconds=trained.trunk_seconds,
        trunk_passes=trained.trunk_passes,
        validation=validation,
        self_test={dataset.classes[sample.label]: str(sample.path) for sample in surest},
    )
    if trained.cross_validation:
        report["cross_validation"] = trained.cross_validation
    return report


def _first_of_each_class(looks: Sequence[Look], count: int) -> list[Sample]:
    """The first `count` samples of each class."""
    labels = {look.sample.label for look in looks}
    return [look.sample for label in sorted(labels) for look in [look for look in looks if look.sample.label == label][:count]]
