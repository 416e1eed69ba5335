"""OpenVINO on the CPU, fp32 or int8: the whole network, class scores and heat map, as one graph. Needs the optional extra `openvino`."""

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino.preprocess import PrePostProcessor
from torch import Tensor, nn

from station.vision.dvgg16 import BilinearDVGG16, NetworkDescription
from station.vision.engine import EngineError
from station.vision.preprocess import Pixels, preprocess

MODEL = "network.xml"
"""The built model's file in its folder; its numbers lie beside it, in `network.bin`."""
_TRUNKS = "__module.network.trunks."
"""How the names of the trunks' operations begin in the graph."""


class OpenVinoCpu:
    """A `Runner` on the CPU, of a model that `build` made."""

    def __init__(self, folder: Path, description: NetworkDescription) -> None:
        """Compiles the model in `folder` for this processor.

        Raises:
            EngineError: it cannot be read or compiled.
        """
        self._description = description
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self._request = openvino.Core().compile_model(folder / MODEL, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"{folder / MODEL}: OpenVINO cannot open it: {error}; write network.precision: fp32") from error

    def run(self, pixels: Pixels, pixel_format: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `Runner.run`.

        Raises:
            EngineError: OpenVINO failed.
        """
        picture = _nhwc(preprocess(pixels, pixel_format, self._description))
        try:
            outputs = self._request.infer([picture], share_inputs=True)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {error}") from error
        return outputs[0][0], outputs[1][0]

    def expect(self, pixels: Pixels, pixel_format: str) -> None:
        """Nothing: every shape takes the same way."""

    def keep_warm(self) -> None:
        """Nothing, as on `TorchCpu`."""


def build(network: BilinearDVGG16, precision: Literal["fp32", "int8"], pictures: Sequence[tuple[Pixels, str]], folder: Path) -> None:
    """Writes the network as OpenVINO's model into `folder`.

    In int8 the trunks' 3x3 convolutions are quantized, weights a channel and activations a tensor, by the ranges that `pictures` reach and
    with the bias of every layer corrected by them. What follows the trunks stays float32: quantizing it gains nothing and costs accuracy.

    Args:
        pictures: of the recipe's own product, as its camera or files give them.
    """
    size = network.description.input_size
    example = torch.zeros(1, 3, size, size)
    model = openvino.convert_model(_WithSoftMax(network), example_input=example, input=[1, 3, size, size])
    steps = PrePostProcessor(model)  # the pictures come channels-last
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    model = steps.build()
    if precision == "int8":
        import nncf  # noqa: PLC0415  takes seconds, and only building needs it

        nncf.set_log_level(logging.ERROR)
        behind = [op.get_friendly_name() for op in model.get_ordered_ops() if not op.get_friendly_name().startswith(_TRUNKS)]
        if len(behind) == len(model.get_ordered_ops()):
            raise EngineError(f"OpenVINO names no operation {_TRUNKS}...: nothing would be quantized")
        inputs = [_nhwc(preprocess(pixels, pixel_format, network.description)) for pixels, pixel_format in pictures]
        with redirect_stdout(sys.stderr):  # its progress is no answer of a command
            model = nncf.quantize(
                model,
                nncf.Dataset(inputs),
                subset_size=len(inputs),
                preset=nncf.QuantizationPreset.MIXED,
                fast_bias_correction=False,
                ignored_scope=nncf.IgnoredScope(names=behind, validate=False),
            )
    openvino.save_model(model, folder / MODEL, compress_to_fp16=False)


class _WithSoftMax(nn.Module):
    """The network with F's soft-max: pictures (1, 3, S, S) -> probabilities (1, K) and heat map (1, h, w)."""

    def __init__(self, network: BilinearDVGG16) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, heat = self.network(x)
        return logits.softmax(dim=1), heat


def _nhwc(picture: Tensor) -> npt.NDArray[np.float32]:
    """(1, 3, S, S), channels-last in memory -> the same memory as (1, S, S, 3)."""
    return picture.permute(0, 2, 3, 1).numpy()
