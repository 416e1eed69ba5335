"""What phase 1 costs beside a literal one, on labelled pictures: `make measure-training DATA=... PRETRAINED=...`. Ratios of one run.

The literal phase 1 passes every picture through four trunks in every epoch and keeps nothing; it is timed on a few pictures.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from station.training.checkpoint import Checkpoints
from station.training.dataset import Dataset, read_folder
from station.training.descent import Run
from station.training.held_trunk import HeldTrunk
from station.training.phases import four_trunks, one_trunk, phase_1
from station.training.pictures import Pictures
from station.training.pretrained import load_trunk
from station.training.train import PHASE_1
from station.training.training_log import training_log
from station.training.trunk_cache import TrunkCache
from station.training.workers import Workers
from station.vision.dvgg16 import NetworkDescription

LITERAL_PICTURES = 8
EPOCHS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("pretrained")
    options = parser.parse_args()
    dataset = read_folder(options.data)
    description = NetworkDescription(dataset.classes)
    trunk = load_trunk(options.pretrained)
    with (
        tempfile.TemporaryDirectory() as folder,
        training_log(Path(folder) / "curves", lambda line: print(line, file=sys.stderr, flush=True), leads=True) as log,
    ):
        run = Run(0, Checkpoints(Path(folder), writes=False), log, Workers())
        literal_s = literal_seconds(dataset, description, trunk, Path(folder))
        network = one_trunk(description, trunk, 0, torch.device("cpu"))
        cache = TrunkCache(Path(folder) / "trunk", network.trunks[0], description, torch.device("cpu"))
        held = HeldTrunk(cache, dataset.samples, run)
        began_s = time.monotonic()
        phase = replace(PHASE_1, epochs=EPOCHS, patience=0)
        phase_1(network, held, torch.arange(len(dataset.samples)), torch.arange(0), phase, run)
        rest_s = time.monotonic() - began_s
        literal_s = (literal_s + literal_seconds(dataset, description, trunk, Path(folder))) / 2
    total_s = held.seconds + rest_s
    report = {
        "pictures": len(dataset.samples),
        "trunk_passes": held.passes,
        "epochs": EPOCHS,
        "rest_share": rest_s / total_s,
        "times_faster_than_literal": literal_s * len(dataset.samples) * EPOCHS / total_s,
        "trunk_s": held.seconds,
        "rest_s": rest_s,
        "literal_s_a_picture_and_epoch": literal_s,
    }
    print(json.dumps(report))


def literal_seconds(dataset: Dataset, description: NetworkDescription, trunk: dict[str, torch.Tensor], folder: Path) -> float:
    """Seconds a picture and epoch of four held trunks, on a few pictures as one batch."""
    network = four_trunks(one_trunk(description, trunk, 0, torch.device("cpu")), description)
    network.to(memory_format=torch.channels_last)
    network.trunks.requires_grad_(False)
    pictures = Pictures(
        dataset.samples[:: len(dataset.samples) // LITERAL_PICTURES][:LITERAL_PICTURES], description, folder, torch.device("cpu")
    )
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=PHASE_1.learning_rate)
    began_s = time.monotonic()
    for part in torch.split(torch.arange(LITERAL_PICTURES), 2):
        nn.functional.cross_entropy(network.logits(pictures.batch(part)), pictures.labels[part], reduction="sum").backward()
    optimiser.step()
    return (time.monotonic() - began_s) / LITERAL_PICTURES


if __name__ == "__main__":
    main()
