"""A cylindrical iron part with magnetic powder under ultraviolet light, 468 x 1324 pixels: section 3.2.4 of the paper, drawn.

The part stands upright and fills the picture: 45 mm are 468 pixels, so that a crack 0.3-1.0 mm wide is 3-10 pixels.
"""

import cv2
import numpy as np

from drivers.simulated.light import Layer, Light, Mask, Picture, bell, box_around, cloud, expose, ribbon, soften, stamp, tint, wander

WIDTH_PX, HEIGHT_PX = 468, 1324
PX_PER_MM = 10.4
_VIOLET = np.array([0.62, 0.22, 1.25], np.float32)
_BODY = np.array([0.10, 0.06, 0.30], np.float32)
_POWDER = np.array([0.42, 1.0, 0.22], np.float32)
_GLOW = np.array([0.62, 1.3, 0.18], np.float32)


def render(class_name: str, scene: np.random.Generator, defect: np.random.Generator) -> tuple[Picture, Mask]:
    """The picture (1324, 468, 3) and the mask (1324, 468). `scene` alone decides the part, `defect` what is wrong with it."""
    light = _good_part(scene)
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    if class_name == "crack":
        _crack(light, mask, defect)
    light *= np.float32(scene.uniform(0.85, 1.2))
    return expose(light, float(scene.uniform(0.15, 0.25)), scene), mask > 0


def _good_part(rng: np.random.Generator) -> Light:
    """Body, violet reflection, end faces, and the powder that sticks to every part."""
    x = np.arange(WIDTH_PX, dtype=np.float32)
    across = (x - WIDTH_PX / 2 + rng.normal(0, 4)) / (WIDTH_PX / 2)
    round_body = np.sqrt(np.clip(1 - across**2 * 0.98, 0, 1)).astype(np.float32)
    along = 1 + 0.12 * wander(rng, HEIGHT_PX, 320)
    texture = 1 + 0.10 * cloud(rng, HEIGHT_PX, WIDTH_PX, 90) + 0.05 * cloud(rng, HEIGHT_PX, WIDTH_PX, 3)
    light = tint(np.outer(along, 0.35 + 0.65 * round_body) * texture, _BODY * np.float32(rng.uniform(0.8, 1.2)))
    _reflection(light, across, rng)
    _turning_marks(light, round_body, rng)
    _powder(light, round_body, rng)
    _ends(light, rng)
    return light


def _reflection(light: Light, across: Light, rng: np.random.Generator) -> None:
    """The lamp mirrored in the cylinder: a strong upright violet stripe, soft at its edges, and a weaker one beside it."""
    for place, width, strength in (
        (rng.uniform(-0.22, 0.22), rng.uniform(0.05, 0.09), rng.uniform(0.8, 1.3)),
        (rng.choice((-1, 1)) * rng.uniform(0.55, 0.75), rng.uniform(0.03, 0.06), rng.uniform(0.1, 0.3)),
    ):
        waver = 1 + 0.15 * wander(rng, HEIGHT_PX, 150) + 0.05 * wander(rng, HEIGHT_PX, 12)
        stripe = bell(across, float(place), float(width)) + 0.25 * bell(across, float(place), float(width) * 3)
        light += tint(np.outer(waver, stripe) * np.float32(strength), _VIOLET)


def _turning_marks(light: Light, round_body: Light, rng: np.random.Generator) -> None:
    """Fine rings that the lathe left, slightly brighter than the body."""
    rings = np.maximum(wander(rng, HEIGHT_PX, 2.5), 0) * 0.035
    light += tint(np.outer(rings, round_body), _VIOLET)


def _powder(light: Light, round_body: Light, rng: np.random.Generator) -> None:
    """What glows on a good part too: a haze, smears from wiping, and single grains. None of it is a thin line."""
    haze = np.maximum(0.02 + 0.02 * cloud(rng, HEIGHT_PX, WIDTH_PX, 130), 0) * round_body
    light += tint(haze, _POWDER)
    for _ in range(int(rng.integers(0, 4))):
        smear = np.zeros((HEIGHT_PX // 4, WIDTH_PX // 4), np.uint8)
        centre = (int(rng.uniform(0, WIDTH_PX // 4)), int(rng.uniform(0, HEIGHT_PX // 4)))
        axes = (int(rng.uniform(8, 26)), int(rng.uniform(4, 14)))
        cv2.ellipse(smear, centre, axes, rng.uniform(-40, 40), 0, 360, (int(rng.uniform(14, 34)),), -1)
        soft = np.asarray(cv2.resize(soften(smear, 5.0), (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_LINEAR), np.float32)
        box = box_around(cv2.resize(smear, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_NEAREST), 80)
        light[box] += tint(soft[box], _POWDER)
    for x, y in rng.uniform((0, 0), (WIDTH_PX, HEIGHT_PX), (int(rng.integers(30, 120)), 2)):
        stamp(light, x, y, rng.uniform(0.7, 1.8), rng.uniform(0.08, 0.5) * _POWDER)


def _ends(light: Light, rng: np.random.Generator) -> None:
    """The chamfers at both end faces: dark beyond, a violet edge, powder caught in it."""
    everywhere = np.arange(HEIGHT_PX, dtype=np.float32)
    for rows, edge, inward in ((np.s_[:80], rng.uniform(10, 26), 1), (np.s_[-80:], HEIGHT_PX - rng.uniform(10, 26), -1)):
        y, face = everywhere[rows], light[rows]
        face *= np.clip((y - edge) * inward + 0.5, 0.04, 1).astype(np.float32)[:, None, None]
        rim = bell(y, float(edge + inward * 5), 2.2) * 0.30
        face += tint(np.outer(rim, 1 + 0.3 * wander(rng, WIDTH_PX, 30)), _VIOLET)
        caught = bell(y, float(edge + inward * 9), 2.5) * np.float32(0.10)
        face += tint(np.outer(caught, 1 + 0.5 * wander(rng, WIDTH_PX, 14)), _POWDER)


def _crack(light: Light, mask: Layer, rng: np.random.Generator) -> None:
    """One or more thin glowing lines, mostly upright, 0.3-1.0 mm wide and 7-90 mm long, meandering, of changing brightness, some broken."""
    layer = np.zeros_like(mask)
    for number in range(1 + int(rng.random() < 0.25) + int(rng.random() < 0.1)):
        length = PX_PER_MM * (rng.uniform(9, 90) if number == 0 else rng.uniform(7, 30))
        _line(layer, length, rng)
    box = box_around(layer, 60)
    glow = soften(layer[box], 0.9) * np.float32(rng.uniform(1.0, 1.5))
    halo = cv2.GaussianBlur(cv2.resize(layer, (WIDTH_PX // 4, HEIGHT_PX // 4), interpolation=cv2.INTER_AREA), (0, 0), 3.0)
    spread = cv2.resize(halo, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_LINEAR)[box].astype(np.float32) / np.float32(255)
    light[box] += tint(glow + 0.35 * spread, _GLOW)
    mask[box] = glow > 0.12


def _line(layer: Layer, length_px: float, rng: np.random.Generator) -> None:
    count = max(24, int(length_px / 7))
    s = np.linspace(-0.5, 0.5, count)
    tilt = rng.normal(0, 0.10)
    meander = 3.0 * wander(rng, count, 9) + 1.2 * wander(rng, count, 3) + 10 * wander(rng, count, 40)
    margin_y = min(HEIGHT_PX / 2 - 40, length_px / 2 + 30)
    middle = (rng.uniform(50, WIDTH_PX - 50), rng.uniform(margin_y, HEIGHT_PX - margin_y))
    x = np.clip(middle[0] + tilt * length_px * s + meander, 14, WIDTH_PX - 14)
    points = np.stack((x, middle[1] + length_px * s), axis=1)
    width = PX_PER_MM * rng.uniform(0.3, 0.9) * (1.1 - 2.8 * s**2) * (1 + 0.2 * wander(rng, count, 4))
    level = rng.uniform(150, 235) + 35 * wander(rng, count, 5)
    whole = np.ones(count, bool)
    if rng.random() < 0.4 and count > 40:
        gap = int(rng.uniform(0.3, 0.6) * count)
        whole[gap : gap + int(rng.integers(2, 6))] = False
    for piece in np.split(np.arange(count), np.flatnonzero(np.diff(whole)) + 1):
        if whole[piece[0]] and len(piece) > 2:
            ribbon(layer, points[piece], np.maximum(width[piece], 2.6), np.maximum(level[piece], 90))
