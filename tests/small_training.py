"""Trainings that end within a second: classes that nobody can mix up, and networks a sixteenth as wide as they say.

As a program it trains as a `Job` says, under `torchrun` too; without one it trains as every line of its input says, each in a process of
its own, and answers with the exit code of that.
"""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from station.training.checkpoint import Checkpoints
from station.training.dataset import Sample, read_folder
from station.training.descent import Descent, Epoch, Phase
from station.training.train import Goal, Report, Settings, train
from station.training.trunk_cache import TrunkCache
from station.vision.dvgg16 import NetworkDescription, vgg16_trunk

GOAL = Goal(("good",), 0.5)
PHASE_1 = Phase(epochs=3, learning_rate=1e-3, batch=5, at_once=2)
PHASE_2 = Phase(epochs=2, learning_rate=1e-4, batch=5, at_once=2)


def narrow_channels(description: NetworkDescription, full: int) -> int:
    """In place of `NetworkDescription.channels`: a pretrained trunk has to have width 1, and a whole one is slow."""
    return round(full * description.width / 16)


def write_pictures(folder: Path, count: int, classes: Mapping[str, int] = {"good": 60, "stain": 190}, noise: int = 20) -> Path:
    """Each class of its own grey."""
    for label, (name, level) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng(1000 * label + number)
            picture = rng.integers(level - noise, level + noise, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"{number:03}.png"), picture)
    return folder


def random_trunk(description: NetworkDescription, seed: int = 0) -> nn.Sequential:
    """Weights that neither dampen nor inflate what goes through."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = vgg16_trunk(description)
        for module in trunk.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return trunk


def write_trunk(file: Path, seed: int = 0) -> str:
    """A trunk of random weights, as torchvision names it, in float16; returns where it is, as `Settings` wants it."""
    trunk = random_trunk(NetworkDescription(("a", "b")), seed)
    safetensors.torch.save_file({f"features.{key}": value.half() for key, value in trunk.state_dict().items()}, file)
    return str(file)


def small(pretrained: str, **changes: Any) -> Settings:
    """Few pictures, few epochs, batches that nothing divides."""
    settings = {"input_size": 32, "phase_1": PHASE_1, "phase_2": PHASE_2, "validation": 0.25, "device": "cpu"}
    return Settings(pretrained=pretrained, **{**settings, **changes})


def trained(data: Path, output: Path, settings: Settings, tell: list[str] | None = None) -> Report:
    """The report of a training in this process."""
    told: list[str] = [] if tell is None else tell
    report = train(read_folder(data), output, settings, GOAL, output.with_suffix(""), told.append)
    assert report is not None
    return report


@dataclass(frozen=True)
class Watcher:
    """A log that keeps what it is told."""

    lines: list[str] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def epoch(self, _name: str, _number: int, epoch: Epoch) -> None:
        self.epochs.append(epoch)


# --- in processes of their own


@dataclass(frozen=True)
class Job:
    """A training by a process that has to die.

    Attributes:
        settings: as a dict.
        die_in_step: it is killed in its n-th step, before anything of it is kept.
        die_in_save: it is killed in the middle of its n-th checkpoint.
    """

    data: str
    output: str
    settings: Mapping[str, Any]
    die_in_step: int = 0
    die_in_save: int = 0

    @property
    def told(self) -> Path:
        """What each process said of the training, by its rank."""
        return Path(self.output).with_suffix(".told")

    def lines(self) -> list[str]:
        """What the last process to train said."""
        return cast(list[str], json.loads(self.told.read_text())["lines"])


@contextmanager
def trainings() -> Iterator["Trainings"]:
    """A process that has loaded all there is to load, so that those that train start at once."""
    words = [sys.executable, "-W", "error", __file__]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Trainings(process)


class Trainings:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def exit_code(self, job: Job) -> int:
        """Of the process that trained; below zero the signal that it died of."""
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(asdict(job)), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


def _answer_each_line() -> None:
    torch.optim.Adam([nn.Parameter(torch.zeros(1))])  # what it imports takes longer than a training
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                _train(Job(**json.loads(line)))
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _train(job: Job) -> None:
    """Keeps the state after every second step, so that work is lost, and leaves what it said and found beside the weights."""
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setattr(NetworkDescription, "channels", narrow_channels)
    calls, lines, passed = itertools.count(1), list[str](), list[Sample]()
    patch.setattr(Checkpoints, "due", lambda _: next(calls) % 2 == 0)
    trunk_pass = TrunkCache._pass

    def noted_pass(cache: TrunkCache, sample: Sample) -> object:
        passed.append(sample)
        return trunk_pass(cache, sample)

    patch.setattr(TrunkCache, "_pass", noted_pass)
    _arrange_death(job, patch)
    phases = {name: Phase(**value) for name, value in job.settings.items() if isinstance(value, dict)}
    output = Path(job.output)
    dataset = read_folder(Path(job.data))
    report = train(dataset, output, Settings(**{**job.settings, **phases}), GOAL, output.with_suffix(""), lines.append)
    found = {"lines": lines, "report": report, "passes": len(passed)}
    job.told.with_name(job.told.name + os.environ.get("RANK", "")).write_text(json.dumps(found))


def _arrange_death(job: Job, patch: pytest.MonkeyPatch) -> None:
    step, save = Descent._step, torch.save
    steps, saves = itertools.count(1), itertools.count(1)

    def last_step(descent: Descent, batch: Tensor) -> float:
        loss = step(descent, batch)
        if next(steps) == job.die_in_step:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    def last_save(state: object, file: io.BufferedWriter) -> None:
        if next(saves) == job.die_in_save:
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    patch.setattr(Descent, "_step", last_step)
    patch.setattr(torch, "save", last_save)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _train(Job(**json.loads(sys.argv[1])))
    else:
        _answer_each_line()
