"""The phases of sec. 3.1, each from a network to the same network, better."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from station.training import batch_norm
from station.training.descent import Descent, Epoch, Phase, Run, Task
from station.training.held_trunk import HeldTrunk
from station.training.moments import pool_moments
from station.training.pictures import Pictures
from station.training.whitening import SHARE_WITH_MEAN, Whitening
from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription, bilinear_pool


def one_trunk(description: NetworkDescription, trunk: dict[str, Tensor], seed: int, device: torch.device) -> BilinearDVGG16:
    """A new network with the pretrained trunk, once for all four branches, and everything else random by the seed."""
    network = new_network(replace(description, trunks=1), seed)
    network.trunks[0].load_state_dict(trunk)
    return network.to(device)


def new_network(description: NetworkDescription, seed: int) -> BilinearDVGG16:
    """A network of random weights, the same for the same seed; torch's own random numbers go on as if nothing had happened."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BilinearDVGG16(description)


def phase_1(
    network: BilinearDVGG16, held: HeldTrunk, training: Tensor, held_back: Tensor, phase: Phase, run: Run, name: str = "phase 1"
) -> tuple[Epoch, ...]:
    """Trains all but the one trunk, in place, in whitened coordinates: "only parameters other than VGG16 were trained"."""
    whitening = Whitening.of(held.total_moments(training))
    generator = torch.Generator().manual_seed(run.seed)
    a = whitening.start(network.channels, generator).to(held.device)
    b = whitening.start(network.channels, generator, SHARE_WITH_MEAN).to(held.device)
    of_picture = held.moments(whitening)

    def scores(index: Tensor) -> Tensor:
        return network.classify(pool_moments(of_picture[index].to(held.device), a, b))

    rest = nn.ModuleDict({"a": a, "b": b, "classifier": network.classifier})
    epochs = Descent(Task(name, rest, scores, held.labels, training, held_back), phase, run).train()
    whitening.fold(a, network.a)
    whitening.fold(b, network.b)
    return epochs


def four_trunks(network: BilinearDVGG16, description: NetworkDescription) -> BilinearDVGG16:
    """The same function with the network's one trunk four times, each to be trained on by itself."""
    state = network.state_dict()
    for key in [key for key in state if key.startswith("trunks.0.")]:
        state |= {key.replace("trunks.0.", f"trunks.{trunk}."): state[key] for trunk in range(1, 4)}
    whole = BilinearDVGG16(description)
    whole.load_state_dict(state)
    return whole


def phase_2(network: BilinearDVGG16, pictures: Pictures, training: Tensor, held_back: Tensor, phase: Phase, run: Run) -> tuple[Epoch, ...]:
    """Trains the whole network on, in place: "continue training the entire network". On CUDA the convolutions compute in float16."""
    return _train_whole("phase 2", network, pictures, training, held_back, phase, run)


def from_scratch(
    network: BilinearDVGG16, pictures: Pictures, training: Tensor, held_back: Tensor, phase: Phase, run: Run
) -> tuple[Epoch, ...]:
    """Trains a network of random weights, in place, its batches normalised on the way; not in the paper."""
    batch_norm.insert(network)
    epochs = _train_whole("from scratch", network, pictures, training, held_back, phase, run)
    batch_norm.fold(network)
    return epochs


def _train_whole(
    name: str, network: BilinearDVGG16, pictures: Pictures, training: Tensor, held_back: Tensor, phase: Phase, run: Run
) -> tuple[Epoch, ...]:
    device = pictures.labels.device
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def scores(index: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            f_a, f_b = network.features(pictures.batch(index))
        return network.classify(bilinear_pool(f_a, f_b))  # outside: phi leaves float16's range

    return Descent(Task(name, network, scores, pictures.labels, training, held_back), phase, run).train()
