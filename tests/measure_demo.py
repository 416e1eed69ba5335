"""`make accuracy`: what the demo networks are worth on parts they never saw, from the simulated camera through the inspector."""

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import cv2

os.environ["STATION_SIMULATED_DIR"] = tempfile.mkdtemp(prefix="station-accuracy-")

from drivers.genicam import GenicamCamera
from drivers.simulated.build import PRODUCER
from drivers.simulated.parts import CLASSES, make_part
from drivers.simulated.scene import Scene
from station import inspector, recipe
from station.line import SOFTWARE_TRIGGER

PARTS = 2000
FIRST_SEED = 50_000_000
"""The networks were trained on seeds below a thousand."""
SERIAL = "SIM-MQ042"


def measure(product: str) -> dict[str, object]:
    """Accuracy over the classes, and what the verdicts would be at the recipe's minimum probability."""
    found = recipe.find(Path("recipes"), product)
    judge = inspector.prepare(found, Path("weights"), Path("data/engines"), "cpu")
    scene = Scene(Path(os.environ["STATION_SIMULATED_DIR"]), SERIAL)
    camera = GenicamCamera([PRODUCER], SERIAL, simulated=True)
    camera.start({**found.document.camera, **SOFTWARE_TRIGGER})
    confusion: Counter[tuple[str, str]] = Counter()
    escapes = overkill = 0
    for number in range(PARTS):
        class_name = CLASSES[product][number % len(CLASSES[product])]
        scene.show([make_part(product, class_name, FIRST_SEED + number).picture], noise=2)
        camera.trigger()
        frame = camera.fetch(2.0)
        assert frame is not None
        seen = judge.inspect(frame)
        confusion[class_name, seen.class_name] += 1
        passed = seen.class_name in found.document.good and seen.probability >= found.document.minimum_probability
        escapes += passed and class_name != "good"
        overkill += not passed and class_name == "good"
        if number % 200 == 199:
            print(f"{product}: {number + 1} parts", file=sys.stderr)
    camera.close()
    scene.close()
    right = sum(count for (truth, said), count in confusion.items() if truth == said)
    mistakes = {f"{truth} called {said}": count for (truth, said), count in confusion.items() if truth != said}
    return {"product": product, "parts": PARTS, "accuracy": right / PARTS, "escapes": escapes, "overkill": overkill, "mistakes": mistakes}


if __name__ == "__main__":
    cv2.setNumThreads(1)
    for name in sys.argv[1:] or CLASSES:
        print(json.dumps(measure(name)), flush=True)
