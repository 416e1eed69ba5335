"""Where a training is watched: lines for whoever waits, curves for TensorBoard."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from station.training.descent import Epoch, Log


@contextmanager
def training_log(folder: Path, say: Callable[[str], None], leads: bool) -> Iterator[Log]:
    """The log of a training; of the processes that train together, only the one that leads has anything to say.

    Curves go under `folder`, beside those of earlier trainings: `tensorboard --logdir FOLDER` draws them.
    """
    if not leads:
        yield _Silence()
        return
    curves = SummaryWriter(str(folder))
    try:
        yield _Spoken(say, curves)
    finally:
        curves.close()


class _Spoken:
    def __init__(self, say: Callable[[str], None], curves: SummaryWriter) -> None:
        self.say = say
        self._curves = curves

    def epoch(self, name: str, number: int, epoch: Epoch) -> None:
        for curve, value in vars(epoch).items():
            if value is not None:
                self._curves.add_scalar(f"{name}/{curve}", value, number)


class _Silence:
    def say(self, line: str) -> None:
        pass

    def epoch(self, name: str, number: int, epoch: Epoch) -> None:
        pass
