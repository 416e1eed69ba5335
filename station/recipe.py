"""A product: how it is lit and taken, which network judges it, from which probability on it is good. A folder with a hash.

recipes/NAME/recipe.yaml     the schema is `RecipeDocument`
recipes/NAME/*.jpg           self-test pictures: at least one the recipe must call good and one it must not
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from drivers.camera import Feature
from drivers.plc import crc16_modbus
from station.document import DocumentError, Model, read


class RecipeError(Exception):
    """The recipe cannot be used; the message names the file, the key, the value and the fix."""


class NetworkDocument(Model):
    """The weights file that judges, by name and content."""

    weights: str = Field(pattern=r"^[\w.-]+\.safetensors$")
    """A file in the home's `weights/`."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    precision: Literal["fp32", "fp16", "bf16", "int8", "auto"] = "fp32"
    """In what the trunks compute; `auto` is the fastest on this machine that says what fp32 says of the recipe's own pictures."""


class LocalizationDocument(Model):
    """How the heat map becomes defects (Eq. 6)."""

    method: Literal["fixed", "otsu"]
    sigma: int | None = Field(default=None, ge=1, le=255)
    """The fixed threshold, grey 1-255: at or above it is defect."""
    min_area_px: int = Field(default=1, ge=1)
    """Smaller regions are not reported; camera pixels."""

    @model_validator(mode="after")
    def _sigma_goes_with_fixed(self) -> "LocalizationDocument":
        if (self.method == "fixed") != (self.sigma is not None):
            raise ValueError("sigma stands with method: fixed, and only there")
        return self


class SelfTestDocument(Model):
    """A picture beside recipe.yaml and the class it must be given before the recipe may run."""

    image: str = Field(pattern=r"^[\w.-]+$")
    class_name: str = Field(alias="class")


class RecipeDocument(Model):
    """The whole of recipe.yaml."""

    number: int = Field(ge=1, le=65_535)
    description: str = ""
    camera: dict[str, Feature]
    """GenICam features by their SFNC names, written in this order and read back."""
    network: NetworkDocument
    good: tuple[str, ...]
    """The classes that may pass; every other class of the network is a defect. With none of them nothing ever passes."""
    minimum_probability: float = Field(gt=0, le=1)
    """Below it a part that looks good is answered FAIL / uncertain."""
    deadline_ms: int = Field(ge=1, le=60_000)
    """From capture to verdict; later is FAIL / late."""
    localization: LocalizationDocument
    self_test: tuple[SelfTestDocument, ...] = Field(min_length=2)

    @field_validator("camera")
    @classmethod
    def _the_site_owns_the_trigger(cls, camera: dict[str, Feature]) -> dict[str, Feature]:
        owned = sorted(name for name in camera if name in {"TriggerMode", "TriggerSource", "TriggerSelector"})
        if owned:
            raise ValueError(f"{', '.join(owned)}: how a part is triggered is the site's, in station.yaml; remove it here")
        return camera

    @model_validator(mode="after")
    def _both_kinds_are_tested(self) -> "RecipeDocument":
        tested_good = {test.class_name in self.good for test in self.self_test}
        if tested_good != ({True, False} if self.good else {False}):
            raise ValueError(f"self_test needs a picture of a good class ({', '.join(self.good)}) and one of a defect")
        return self


@dataclass(frozen=True)
class Recipe:
    """One product, as read. Never changes: editing the folder makes another recipe with another hash."""

    name: str
    folder: Path
    document: RecipeDocument
    hash: str
    """SHA-256 (64 hex digits) over the document's values (features in their order), the network's hash among them, and the pictures'."""

    @property
    def number(self) -> int:
        return self.document.number

    @cached_property
    def checksum(self) -> int:
        """What the wire carries of the hash: CRC-16/MODBUS over its 64 characters."""
        return crc16_modbus(self.hash.encode("ascii"))

    @property
    def file(self) -> Path:
        return self.folder / "recipe.yaml"


def load(folder: Path) -> Recipe:
    """The recipe in `folder`.

    Raises:
        RecipeError: the document is missing or wrong, or a self-test picture is not there.
    """
    try:
        document = read(folder / "recipe.yaml", RecipeDocument)
    except DocumentError as error:
        raise RecipeError(str(error)) from None
    digest = hashlib.sha256(json.dumps(document.model_dump(by_alias=True)).encode())
    for test in document.self_test:
        try:
            digest.update(hashlib.sha256((folder / test.image).read_bytes()).digest())
        except OSError as error:
            raise RecipeError(f"{folder / 'recipe.yaml'}: self_test.image: {test.image}: {error.strerror}; put the picture there") from None
    return Recipe(folder.name, folder, document, digest.hexdigest())


def load_all(recipes: Path) -> tuple[dict[str, Recipe], dict[str, RecipeError]]:
    """Every folder in `recipes` by name: those that can be read, and what is wrong with the others."""
    good: dict[str, Recipe] = {}
    bad: dict[str, RecipeError] = {}
    for folder in sorted(path.parent for path in recipes.glob("*/recipe.yaml")):
        try:
            good[folder.name] = load(folder)
        except RecipeError as error:
            bad[folder.name] = error
    return good, bad


def find(recipes: Path, which: str | int) -> Recipe:
    """The recipe of this name, or of this number.

    Raises:
        RecipeError: there is none, two share the number, or it cannot be read.
    """
    if isinstance(which, str) and not which.isdigit():
        if not (recipes / which / "recipe.yaml").is_file():
            names = ", ".join(sorted(path.parent.name for path in recipes.glob("*/recipe.yaml"))) or "none"
            raise RecipeError(f"{recipes}: no recipe {which}; there are: {names}")
        number = load(recipes / which).number
    else:
        number = int(which)
    good, bad = load_all(recipes)
    found = [recipe for recipe in good.values() if recipe.number == number]
    if len(found) > 1:
        raise RecipeError(f"{found[1].file}: number: {number} is also that of {found[0].name}; give each recipe its own number")
    if not found:
        unreadable = "".join(f"\n{error}" for error in bad.values())
        raise RecipeError(f"{recipes}: no recipe has number {number}{unreadable}")
    return found[0]
