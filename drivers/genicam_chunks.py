"""`Chunks`: the settings that a frame was taken with, which a camera in chunk mode (SFNC ChunkModeActive) sends behind its picture."""

import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from drivers.camera import Feature
from drivers.genicam_features import DEVICE_ERRORS
from drivers.gentl_buffer import payload_bytes

with warnings.catch_warnings():  # importing harvesters replaces the filters of the whole process
    from genicam import genapi

ADAPTERS = {"U3V": genapi.ChunkAdapterU3V, "GEV": genapi.ChunkAdapterGEV}
"""By GenTL's transport layer type; with any other the producer itself tells where the chunks lie."""
TOLERANCE = 0.01
"""A setting so little off, as a part of its value or in its own unit, is only told in another resolution."""


class Chunks:
    """Reads the chunk data of one device. Chunks that are missing or broken tell nothing, as with a camera that sends none."""

    def __init__(self, nodes: Any, transport: str) -> None:
        """`nodes`: the remote device's node map, where SFNC's ChunkExposureTime and the like stand; `transport`: its TLType."""
        self._nodes = nodes
        self._specialized = transport in ADAPTERS
        self._adapter = ADAPTERS.get(transport, genapi.ChunkAdapterGeneric)(nodes)

    def taken_otherwise(self, buffer: Any, features: Mapping[str, Feature]) -> str:
        """Which of these features the frame in `buffer` was not taken with, for the operator; empty when nothing says so."""
        with suppress(*DEVICE_ERRORS):
            self._attach(buffer)
            try:
                return self._difference(features)
            finally:
                self._adapter.detach_buffer()
        return ""

    def _attach(self, buffer: Any) -> None:
        self._adapter.attach_buffer(buffer.raw_buffer, payload_bytes(buffer) if self._specialized else buffer.chunk_data_info_list)

    def _difference(self, features: Mapping[str, Feature]) -> str:
        for name, asked in features.items():
            if not isinstance(asked, (int, float)) or not self._nodes.has_node(f"Chunk{name}"):
                continue
            with suppress(genapi.GenericException):  # this frame does not carry it
                value = self._nodes.get_node(f"Chunk{name}").value
                if not math.isclose(value, asked, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
                    return f"was taken with {name} {value:g} in place of {asked:g}"
        return ""
