"""Several processes train as one does: the same batches, the same weights, and only one of them speaks and writes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import small_training
import torch
from small_training import PHASE_1, PHASE_2, Job, narrow_channels, small, trained, write_pictures, write_trunk
from torch import Tensor, nn

from station.training.pretrained import load_trunk
from station.training.train import Report
from station.training.workers import Workers, workers
from station.vision import weights
from station.vision.dvgg16 import NetworkDescription

# 12 pictures to train on in batches of 11: the two processes get 6 and 5 of one, and 1 and none of the other. 4 pictures are held back.
# The head is the plain one: through the other's square root Adam makes whole steps of what the order of sums changes.
BATCHES = {"phase_1": replace(PHASE_1, batch=11), "phase_2": replace(PHASE_2, batch=11, learning_rate=1e-5)}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- a part of a batch


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("pictures", [0, 1, 5, 16])
def test_every_picture_is_exactly_one_process(count: int, pictures: int) -> None:
    index = torch.arange(pictures) * 3
    shares = [Workers(rank, count).share(index) for rank in range(count)]
    assert sorted(torch.cat(shares).tolist()) == index.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_is_all_of_them() -> None:
    module = nn.Linear(2, 1)
    module.weight.grad = torch.tensor([[1.0, 2.0]])
    with workers(torch.device("cpu")) as together:
        assert together.leads
        together.sum_gradients(module.parameters())
        together.wait()
        assert together.sum(torch.tensor(3.0)) == 3
    assert module.weight.grad.tolist() == [[1, 2]]
    assert module.bias.grad is None


# --- two processes


@dataclass(frozen=True)
class Trained:
    """The same training by two processes and by one.

    Attributes:
        ranks: what each of the two found.
        trunk: that they started from.
        folder: where the two worked.
    """

    ranks: list[dict[str, Any]]
    report: Report
    both: weights.LoadedWeights
    alone: weights.LoadedWeights
    trunk: dict[str, Tensor]
    folder: Path


def torchrun(job: Job) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port), small_training.__file__]
    ran = subprocess.run(
        [*words, json.dumps(asdict(job))],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    return [json.loads(job.told.with_name(f"{job.told.name}{rank}").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkDescription, "channels", narrow_channels)
        data, trunk = write_pictures(folder / "data", 8, noise=60), write_trunk(folder / "trunk.safetensors")
        settings = small(trunk, trunks=4, head="none", **BATCHES)
        (folder / "both").mkdir()
        job = Job(str(data), str(folder / "both/plate.safetensors"), asdict(settings))
        ranks = torchrun(job)
        report = trained(data, folder / "alone/plate.safetensors", settings)
        both, alone = weights.load(Path(job.output)), weights.load(folder / "alone/plate.safetensors")
        yield Trained(ranks, report, both, alone, load_trunk(trunk), folder / "both")


def test_two_processes_come_to_the_weights_of_one(two: Trained) -> None:
    both, alone = two.both.network.state_dict(), two.alone.network.state_dict()
    assert both.keys() == alone.keys()
    assert two.both.description == two.alone.description
    assert max(float((both[name] - alone[name]).abs().max()) for name in both) < 1e-4


def test_phase_2_changes_the_trunks_of_two_processes_as_those_of_one(two: Trained) -> None:
    """A change is small beside the weights: they would be alike without it."""

    def change(loaded: weights.LoadedWeights) -> Tensor:
        trunks = loaded.network.trunks
        return torch.cat([(trunk.state_dict()[name] - start).flatten() for trunk in trunks for name, start in two.trunk.items()])

    assert len(two.alone.network.trunks) == 4
    assert (change(two.both) - change(two.alone)).norm() < 1e-2 * change(two.alone).norm()


def test_and_to_its_figures(two: Trained) -> None:
    def figures(loaded: weights.LoadedWeights) -> list[float]:
        epochs: Any = loaded.card["epochs"]
        return [value for phase in ("phase 1", "phase 2") for epoch in epochs[phase] for value in epoch.values()]

    assert len(figures(two.both)) == 3 * (PHASE_1.epochs + PHASE_2.epochs)
    assert figures(two.both) == pytest.approx(figures(two.alone), abs=1e-4)
    assert two.ranks[0]["report"]["validation"] == two.report["validation"]


def test_one_of_them_speaks_and_writes(two: Trained) -> None:
    leading, other = two.ranks
    assert leading["report"]["sha256"] == two.both.sha256
    assert leading["lines"]
    assert other["report"] is None
    assert other["lines"] == []
    assert sorted(file.name for file in two.folder.iterdir()) == [
        "plate",
        "plate.safetensors",
        "plate.told0",
        "plate.told1",
        "trunk.cache",
    ]
    assert {file.parent.parent.name for file in (two.folder / "plate" / "checkpoints").rglob("*.pt")} == {"checkpoints"}


def test_each_picture_goes_through_the_trunk_of_one_of_them(two: Trained) -> None:
    assert [rank["passes"] for rank in two.ranks] == [8, 8]
    assert two.ranks[0]["report"]["trunk_passes"] == two.report["trunk_passes"] == 16
