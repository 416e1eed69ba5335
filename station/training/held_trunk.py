"""What a trunk that is not trained makes of labelled pictures: passed through it once, whatever is then trained on them, and how often."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from station.training.dataset import Sample
from station.training.descent import Run, duration
from station.training.look import Look
from station.training.moments import moments
from station.training.trunk_cache import TrunkCache
from station.vision.dvgg16 import BilinearDVGG16
from station.vision.engine import grey
from station.vision.preprocess import rgb_from_file


class HeldTrunk:
    """The trunk's outputs of all pictures, on disk, and what is made of them.

    Attributes:
        device: where the trunk is.
        labels: int64 (n,), on the device.
        seconds: spent on passing the pictures through the trunk, or finding that they were.
    """

    def __init__(self, cache: TrunkCache, samples: Sequence[Sample], run: Run) -> None:
        """Makes all passes that were not made before; processes that train together share them.

        Raises:
            ValueError, DatasetError: as `TrunkCache.outputs`.
        """
        self._cache, self._samples, self._workers = cache, tuple(samples), run.workers
        self.device = cache.device
        self.labels = torch.tensor([sample.label for sample in samples], device=self.device)
        began_s, said_s = time.monotonic(), 0.0
        own = self._samples[run.workers.rank :: run.workers.count]
        self.seconds = 0.0
        for done, _ in enumerate(cache.outputs(own), start=1):
            self.seconds = time.monotonic() - began_s
            if self.seconds - said_s > 5 or done == len(own):
                said_s = self.seconds
                left = duration(self.seconds / done * (len(own) - done))
                run.log.say(f"phase 1: trunk, picture {done} of {len(own)}, {cache.passes} passes; {left} left")
        run.workers.wait()

    @property
    def passes(self) -> int:
        """Pictures that went through the trunk in all processes, each of which has to ask; those left by earlier trainings did not."""
        return int(self._workers.sum(torch.tensor(self._cache.passes, device=self.device)))

    def total_moments(self, index: Tensor) -> Tensor:
        """The sum of the moments of the outputs of the pictures index (n,): float64 (C + 1, C + 1), on the CPU."""
        one_by_one = (moments(output[None].to(self.device))[0].double().cpu() for output in self._outputs(index))
        return sum(one_by_one, start=torch.zeros((), dtype=torch.float64))

    def moments(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The moments of every picture's changed output: float32 or finer (n, C' + 1, C' + 1), on the CPU.

        Args:
            change: outputs (N, C, h, w) on the device -> (N, C', h, w).
        """
        everything = self._cache.outputs(self._samples)
        return torch.cat([moments(change(output[None].to(self.device))).cpu() for output in everything])

    def looks(self, network: BilinearDVGG16, index: Tensor) -> tuple[Look, ...]:
        """What `network`, which has this trunk, says of the pictures index (n,): what an engine would, without passing them again."""
        samples = [self._samples[position] for position in index.tolist()]
        return tuple(self._look(network, sample, output) for sample, output in zip(samples, self._outputs(index), strict=True))

    def _outputs(self, index: Tensor) -> Iterator[Tensor]:
        return self._cache.outputs([self._samples[position] for position in index.tolist()])

    def _look(self, network: BilinearDVGG16, sample: Sample, output: Tensor) -> Look:
        with torch.inference_mode():
            logits, heat = network.see(*network.reduce([output[None].to(self.device).float()]))
        height, width = rgb_from_file(sample.path).shape[:2]
        return Look(sample, (width, height), logits[0].softmax(dim=0).cpu().numpy(), grey(heat[0].cpu().numpy()))
