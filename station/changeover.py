"""From one recipe to the next: the new inspector is made beside the running one, then inspector and camera change between two parts."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from drivers.camera import Camera, CameraError, CameraState, CameraStatus, Feature
from drivers.plc import ErrorCode
from station.inspector import Inspector
from station.recipe import RecipeError

Prepare = Callable[[str | int], "Future[Inspector]"]
"""Begins to make the inspector of the recipe with this name or number, elsewhere; the future raises RecipeError when it is refused."""
Finish = Callable[[ErrorCode, str], None]
"""Called once with how a command ended: NONE and "", or why it failed, by number and in words."""
LONGEST_NS = 300_000_000_000
"""A recipe that is not prepared by then is given up."""
RESTORED_WITHIN_NS = 10_000_000_000
"""So long may the camera take to stream again for the recipe before a refused one."""


@dataclass(slots=True)
class _Preparation:
    future: "Future[Inspector]"
    finish: Finish
    begun_ns: int
    swapped: bool = False
    previous: Inspector | None = None


class Changeover:
    """Owns the inspector in use, and the features the camera was asked for. Refused changes leave both as they were."""

    def __init__(self, camera: Camera, prepare: Prepare, site_features: Mapping[str, Feature]) -> None:
        self.inspector: Inspector | None = None
        self._camera = camera
        self._prepare = prepare
        self._site_features = dict(site_features)
        self._preparation: _Preparation | None = None
        self._restoring_since_ns: int | None = None
        self._now_ns = 0

    @property
    def busy(self) -> bool:
        """True from `begin` until its `finish` is called."""
        return self._preparation is not None

    @property
    def configuring(self) -> bool:
        """True while the camera is on its way to the new recipe's features, or back to the old one's."""
        return (self._preparation is not None and self._preparation.swapped) or self._restoring_since_ns is not None

    def begin(self, which: str | int, finish: Finish, now_ns: int) -> None:
        """Begins to prepare a recipe; one that is already on its way is given up and finishes with that reason."""
        self.abandon("another recipe was asked for")
        try:
            self._preparation = _Preparation(self._prepare(which), finish, now_ns)
        except RuntimeError as error:
            finish(ErrorCode.RECIPE_REFUSED, f"the preparation cannot be started: {error}; restart the station")

    def abandon(self, why: str) -> None:
        """Gives up what is being prepared; what was prepared before stays."""
        if self._preparation is not None:
            self._fail(ErrorCode.COMMAND_SUPERSEDED, why)

    def unprepare(self) -> None:
        """Leaves no recipe prepared."""
        self.abandon("the recipe was unprepared")
        self.inspector = None

    def start_camera(self) -> None:
        """Asks the camera for the prepared recipe's features, or only the site's when none is prepared; its status says what comes of it.

        Raises:
            CameraError: the request itself is unusable.
        """
        recipe_features = self.inspector.recipe.document.camera if self.inspector else {}
        self._camera.start({**recipe_features, **self._site_features})

    def turn(self, camera: CameraStatus, now_ns: int) -> None:
        """One turn of the loop, between two parts: swaps when the new inspector is ready, finishes when the camera streams for it."""
        self._now_ns = now_ns
        if self._restoring_since_ns is not None and (
            camera.state is CameraState.STREAMING or now_ns - self._restoring_since_ns > RESTORED_WITHIN_NS
        ):
            self._restoring_since_ns = None
        preparation = self._preparation
        if preparation is None:
            return
        if now_ns - preparation.begun_ns > LONGEST_NS:
            self._fail(ErrorCode.RECIPE_REFUSED, f"not prepared within {LONGEST_NS // 1_000_000_000} s")
        elif not preparation.swapped and preparation.future.done():
            self._swap(preparation)
        elif preparation.swapped and camera.state is CameraState.STREAMING:
            self._preparation = None
            preparation.finish(ErrorCode.NONE, "")
        elif preparation.swapped and camera.state in (CameraState.ABSENT, CameraState.LOST):
            self._fail(ErrorCode.RECIPE_REFUSED, camera.detail)

    def _swap(self, preparation: _Preparation) -> None:
        try:
            inspector = preparation.future.result()
        except RecipeError as error:
            return self._fail(ErrorCode.RECIPE_REFUSED, str(error))
        except Exception as error:  # noqa: BLE001 - whatever stopped it, the recipe is refused and the old one stays
            return self._fail(ErrorCode.RECIPE_REFUSED, f"{type(error).__name__}: {error}")
        preparation.swapped, preparation.previous = True, self.inspector
        self.inspector = inspector
        try:
            self.start_camera()
        except CameraError as error:
            return self._fail(ErrorCode.RECIPE_REFUSED, str(error))
        return None

    def _fail(self, code: ErrorCode, why: str) -> None:
        preparation, self._preparation = self._preparation, None
        if preparation is None:
            return
        preparation.future.cancel()
        if preparation.swapped:
            self.inspector = preparation.previous
            self._restoring_since_ns = self._now_ns
            try:
                self.start_camera()
            except CameraError as error:
                why = f"{why}; and the recipe before: {error}"
        preparation.finish(code, why)
