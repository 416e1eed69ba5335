"""Frame -> Inspection: one prepared recipe with its network, immutable, replaced whole at changeover."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from drivers.camera import Frame, Pixels
from station.inspection import Defect, Inspection
from station.recipe import Recipe, RecipeError
from station.vision.built import Ready, ready
from station.vision.engine import EngineError, choose_device
from station.vision.exposure import ExposureLimits, exposure
from station.vision.preprocess import PIXEL_FORMATS, blank, rgb_from_file
from station.vision.segment import Fixed, Otsu, Threshold, segment
from station.vision.weights import WeightsError, read

_LARGEST_PX = 16_384
"""A side of a picture beyond this is no camera's; the camera itself will refuse it."""


class Inspector:
    """What judges parts of one product. Made by `prepare` only, so that an inspector in hand is verified, warm and self-tested.

    Attributes:
        description: of the network.
        card: how the network came to be, as its training wrote it.
        engine: what runs the network, such as `torch-cpu-fp32`.
        considered: the engines that were built and compared with fp32 for the recipe's precision, and what came of it.
        threshold: by which the heat map becomes defects.
        exposure: what a frame's may be, by the recipe's self-test pictures.
    """

    def __init__(self, recipe: Recipe, prepared: Ready, card: Mapping[str, object], limits: ExposureLimits) -> None:
        self.recipe = recipe
        self.exposure = limits
        self.description = prepared.engine.description
        self.card = card
        self.engine = prepared.engine.name
        self.considered = prepared.considered
        self._engine = prepared.engine
        localization = recipe.document.localization
        self.threshold: Threshold = Otsu() if localization.sigma is None else Fixed(localization.sigma)

    def inspect(self, frame: Frame) -> Inspection:
        """What is seen in `frame`: the same for the same pixels, to the bit.

        Raises:
            ValueError: the frame is no picture to judge: under- or over-exposed, or of a pixel format that is not known.
            RuntimeError: the network failed on its device.
        """
        self.exposure.check(exposure(frame.pixels, frame.pixel_format))
        seen = self._engine.see(frame.pixels, frame.pixel_format)
        index = int(seen.probabilities.argmax())
        classes = self.description.classes
        class_name = classes[index]
        return Inspection(
            frame_id=frame.frame_id,
            captured_ns=frame.captured_ns,
            recipe_hash=self.recipe.hash,
            scores={name: float(score) for name, score in zip(classes, seen.probabilities, strict=True)},
            class_name=class_name,
            class_index=index,
            probability=float(seen.probabilities[index]),
            defects=() if class_name in self.recipe.document.good else self._defects(class_name, seen.heat_map, frame.pixels),
            heat_map=seen.heat_map,
        )

    def keep_warm(self) -> None:
        """Between parts, while the line is idle: the next frame is as fast as the others."""
        self._engine.keep_warm()

    def _defects(self, class_name: str, heat_map: npt.NDArray[np.uint8], pixels: Pixels) -> tuple[Defect, ...]:
        size = (pixels.shape[1], pixels.shape[0])
        regions = segment(heat_map, size, self.threshold, self.recipe.document.localization.min_area_px)
        return tuple(Defect(class_name, region.box, region.area_px, region.peak) for region in regions)


def prepare(recipe: Recipe, weights: Path, engines: Path, device: str) -> Inspector:
    """An inspector for `recipe`: weights verified by hash and by golden pictures, warm, and right about every self-test picture.

    The golden pictures (at least one) and the self-test's (at least two) are also what warms the network up. An engine of another precision
    than fp32 is built into the folder `engines` where it is not there yet, which may take minutes, and has passed the parity gate.

    Raises:
        RecipeError: the weights are missing, others than the recipe names, without golden pictures or score otherwise than in training; a
            class is unknown; no engine of the recipe's precision passes; or a self-test picture was judged wrongly.
        EngineError: the device is not there.
    """
    document = recipe.document
    path = weights / document.network.weights
    try:
        file = read(path)
    except WeightsError as error:
        raise RecipeError(f"{recipe.file}: network.weights: {error}") from None
    if file.sha256 != document.network.sha256:
        raise RecipeError(
            f"{recipe.file}: network.sha256: {document.network.sha256} is not that of {path}, which is {file.sha256}; "
            "bring the right weights, or, if these are the ones you checked, write their hash into the recipe"
        )
    classes = file.description.classes
    unknown = sorted({*document.good, *(test.class_name for test in document.self_test)} - set(classes))
    if unknown:
        raise RecipeError(f"{recipe.file}: good, self_test: no class {', '.join(unknown)} in {path}; it knows {', '.join(classes)}")
    if not file.golden:
        raise RecipeError(
            f"{recipe.file}: network.weights: {path} holds no golden pictures, so it cannot be verified that it scores as it did in "
            "training; train it again (`station weights verify` says it of every file)"
        )
    choose_device(device)
    pictures = _self_test_pictures(recipe)

    def passes(probabilities: Sequence[float]) -> bool:
        best = max(probabilities)
        return classes[probabilities.index(best)] in document.good and best >= document.minimum_probability

    try:
        prepared = ready(file, document.network.precision, device, engines, [(pixels, "RGB8") for pixels in pictures], passes)
        limits = ExposureLimits.of(exposure(pixels, "RGB8") for pixels in pictures)
        inspector = Inspector(recipe, prepared, file.card, limits)
        _self_test(inspector, pictures)
        if expected := _first_frame(recipe):
            prepared.engine.expect(*expected)
    except (EngineError, WeightsError, ImportError, OSError) as error:
        raise RecipeError(f"{recipe.file}: network.weights: {path}: {error}") from None
    return inspector


def _first_frame(recipe: Recipe) -> tuple[Pixels, str] | None:
    """A frame like those that the camera will send, as far as the recipe says what they are like."""
    match recipe.document.camera:
        case {"Width": int(width), "Height": int(height), "PixelFormat": str(pixel_format)} if (
            pixel_format in PIXEL_FORMATS and 0 < width <= _LARGEST_PX and 0 < height <= _LARGEST_PX
        ):
            return blank(width, height, pixel_format), pixel_format
    return None


def _self_test_pictures(recipe: Recipe) -> list[npt.NDArray[np.uint8]]:
    try:
        return [rgb_from_file(recipe.folder / test.image) for test in recipe.document.self_test]
    except ValueError as error:
        raise RecipeError(f"{recipe.file}: self_test.image: {error}") from None


def _self_test(inspector: Inspector, pictures: Sequence[npt.NDArray[np.uint8]]) -> None:
    recipe = inspector.recipe
    for test, pixels in zip(recipe.document.self_test, pictures, strict=True):
        seen = inspector.inspect(Frame(pixels, "RGB8", 0, 0, 0))
        unsure = test.class_name in recipe.document.good and seen.probability < recipe.document.minimum_probability
        if seen.class_name != test.class_name or unsure:
            raise RecipeError(
                f"{recipe.file}: self_test: {test.image} should be {test.class_name}, the network says {seen.class_name} "
                f"({seen.probability:.4f}, minimum {recipe.document.minimum_probability}); these weights do not know this product"
            )
