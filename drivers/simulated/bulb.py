"""A diode glass bulb under dark-field light, 661 x 601 pixels: the product of section 3.2.3 of the paper, drawn.

Everything is drawn lying along x around the middle of the picture, then turned, moved and scaled together with its defect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from drivers.simulated.light import (
    Layer,
    Light,
    Mask,
    Picture,
    Points,
    bell,
    box_around,
    cloud,
    expose,
    patch,
    ribbon,
    soften,
    stamp,
    tint,
    wander,
)

WIDTH_PX, HEIGHT_PX = 661, 601
_MIDDLE_X, _MIDDLE_Y = WIDTH_PX / 2, HEIGHT_PX / 2
_GLASS = np.array([0.93, 1.0, 1.04], np.float32)
_STEEL = np.array([1.0, 0.98, 0.95], np.float32)
_DUMET = np.array([1.0, 0.55, 0.34], np.float32)
_OUTLINE_POINTS = 180
_GLASS_ROWS = slice(HEIGHT_PX // 2 - 180, HEIGHT_PX // 2 + 181)
"""No shell is taller than this."""


@dataclass(frozen=True, slots=True)
class _Bulb:
    """A good bulb: all its light, and the part of it that comes from the shell (what a break takes away)."""

    light: Light
    shell: Light
    outline: Points
    half_length: float
    half_diameter: float
    wall: float


def render(class_name: str, scene: np.random.Generator, defect: np.random.Generator) -> tuple[Picture, Mask]:
    """The picture (601, 661, 3) and the mask (601, 661). `scene` alone decides the bulb, `defect` what is wrong with it."""
    bulb = _good_bulb(scene)
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    if class_name in _DEFECTS:
        _DEFECTS[class_name](bulb, mask, defect)
    angle_deg, scale = float(scene.normal(0, 1.8)), float(scene.uniform(0.96, 1.05))
    pose = cv2.getRotationMatrix2D((_MIDDLE_X, _MIDDLE_Y), angle_deg, scale)
    pose[:, 2] = pose[:, 2] + scene.uniform(-9, 9, 2)
    size = (WIDTH_PX, HEIGHT_PX)
    light = np.asarray(cv2.warpAffine(bulb.light, pose, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    _surround(light, scene)
    white = scene.uniform(0.85, 1.2) * np.array([1 + scene.normal(0, 0.03), 1, 1 + scene.normal(0, 0.05)])
    light = np.asarray(cv2.transform(light, np.diag(white).astype(np.float32)), np.float32)
    return expose(light, float(scene.uniform(0.12, 0.22)), scene), cv2.warpAffine(mask, pose, size, flags=cv2.INTER_NEAREST) > 0


def _good_bulb(rng: np.random.Generator) -> _Bulb:
    half_length, half_diameter = float(rng.uniform(212, 228)), float(rng.uniform(142, 156))
    wall = float(rng.uniform(36, 44))
    outline = _capsule(half_length, half_diameter, 0.62 * half_diameter)
    light = np.zeros((HEIGHT_PX, WIDTH_PX, 3), np.float32)
    _draw_metal(light, half_length, rng)
    shell = _draw_shell(outline, half_length, half_diameter, wall, rng)
    light[_GLASS_ROWS] += tint(shell[_GLASS_ROWS], _GLASS)
    return _Bulb(light, shell, outline, half_length, half_diameter, wall)


def _capsule(half_length: float, half_diameter: float, corner: float) -> Points:
    """The closed outline (n, 2) of a rounded rectangle around the middle of the picture, evenly spaced."""
    angle = np.linspace(0, 2 * np.pi, 4 * _OUTLINE_POINTS, endpoint=False)
    x = np.sign(np.cos(angle)) * (half_length - corner) + corner * np.cos(angle)
    y = np.sign(np.sin(angle)) * (half_diameter - corner) + corner * np.sin(angle)
    corners = np.stack((x + _MIDDLE_X, y + _MIDDLE_Y), axis=1)
    closed = np.vstack((corners, corners[:1]))
    travelled = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))))
    even = np.linspace(0, travelled[-1], _OUTLINE_POINTS)
    return np.stack((np.interp(even, travelled, closed[:, 0]), np.interp(even, travelled, closed[:, 1])), axis=1)


def _draw_metal(light: Light, half_length: float, rng: np.random.Generator) -> None:
    """Leads to both sides, the two studs inside the glass and the die between them, with the glints a ring light leaves on metal."""
    across = np.arange(HEIGHT_PX) - _MIDDLE_Y
    gap = float(rng.uniform(15, 22))
    stud_start = half_length - rng.uniform(22, 40)
    lead, stud = float(rng.uniform(25, 29)), float(rng.uniform(62, 70))
    rows = slice(int(_MIDDLE_Y - 80), int(_MIDDLE_Y + 81))
    for columns, along in ((slice(0, int(_MIDDLE_X)), -1), (slice(int(_MIDDLE_X), WIDTH_PX), 1)):
        reach = along * (np.arange(WIDTH_PX)[columns] - _MIDDLE_X)
        gleam = 1 + 0.16 * wander(rng, len(reach), 26)
        for radius, colour, inside in (
            (lead, _STEEL, _ramp(reach - stud_start)),
            (stud, _DUMET, _ramp(reach - gap) * _ramp(stud_start - reach)),
        ):
            grain = 1 + 0.12 * cloud(rng, rows.stop - rows.start, len(reach), 5)
            strip = np.outer(_cylinder_profile(across[rows], radius, rng), gleam * inside) * grain
            light[rows, columns] += tint(strip, colour)
        _draw_stud_faces(light, along, (gap, stud_start), stud, rng)
    _draw_die(light, gap, rng)


def _ramp(distance_px: npt.NDArray[np.floating]) -> Light:
    return np.asarray(np.clip(distance_px + 0.5, 0, 1), np.float32)


def _cylinder_profile(across: Light, radius: float, rng: np.random.Generator) -> Light:
    """Brightness over the cross-section of a lying metal cylinder: light comes from the sides, so edges gleam and the middle is dark."""
    inside = _ramp(radius - np.abs(across))
    edges = bell(np.abs(across), radius - 3.5, 2.6) * rng.uniform(0.7, 1.0) + bell(np.abs(across), radius * 0.8, radius * 0.16) * 0.28
    streak = bell(across, rng.uniform(-0.35, 0.35) * radius, radius * rng.uniform(0.05, 0.11)) * rng.uniform(0.15, 0.5)
    return inside * (0.07 + edges + streak)


def _draw_stud_faces(light: Light, along: int, ends: tuple[float, float], stud: float, rng: np.random.Generator) -> None:
    """The rounded end faces of a stud, seen as two bright arcs."""
    y = np.linspace(-stud, stud, 24)
    layer = np.zeros(light.shape[:2], np.uint8)
    for end, bulge, level in ((ends[0], -4.0, 185.0), (ends[1], 7.0, 120.0)):
        x = _MIDDLE_X + along * (end + bulge * (1 - (y / stud) ** 2))
        ribbon(layer, np.stack((x, y + _MIDDLE_Y), axis=1), 2.4, level * (1 + 0.2 * wander(rng, len(y), 5)))
    box = box_around(layer, 8)
    light[box] += tint(soften(layer[box], 0.9), _DUMET)


def _draw_die(light: Light, gap: float, rng: np.random.Generator) -> None:
    """The silicon square between the studs: a dim slab with bright edges and a few hard glints of solder."""
    half_height = float(rng.uniform(38, 46))
    box = np.s_[int(_MIDDLE_Y - 60) : int(_MIDDLE_Y + 61), int(_MIDDLE_X - 40) : int(_MIDDLE_X + 41)]
    layer = np.zeros((121, 81), np.uint8)
    middle = np.array([_MIDDLE_X - int(_MIDDLE_X - 40), _MIDDLE_Y - int(_MIDDLE_Y - 60)])
    tilt = rng.normal(0, 1.2)
    corners = np.array([[-gap + 5, -half_height], [gap - 5, -half_height], [gap - 5, half_height], [-gap + 5, half_height]])
    slab = corners + middle + np.stack((tilt * np.sign(corners[:, 1]), np.zeros(4)), axis=1)
    patch(layer, slab, 40)
    ribbon(layer, np.vstack((slab, slab[:1])), 2.0, rng.uniform(110, 200, 5))
    light[box] = light[box] * 0.6 + tint(soften(layer, 0.9), _GLASS)
    for x, y in rng.uniform((-gap, -half_height), (gap, half_height), (int(rng.integers(4, 8)), 2)):
        stamp(light, _MIDDLE_X + x, _MIDDLE_Y + y, rng.uniform(1.2, 3.0), rng.uniform(0.5, 1.6) * _STEEL)


def _draw_shell(outline: Points, half_length: float, half_diameter: float, wall: float, rng: np.random.Generator) -> Light:
    """The glass: a bright rim, its caustics further in, a dim wall, and long soft reflections of the ring light."""
    layer, faint = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8), np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    patch(faint, outline, 26)
    bore = _capsule(half_length - 0.75 * wall, half_diameter - wall, 0.5 * (half_diameter - wall))
    patch(faint, bore, 9)
    ribbon(faint, bore, 5.0, 62 + 24 * _around(rng))
    second = _capsule(half_length - 0.3 * wall, half_diameter - 0.3 * wall, 0.6 * half_diameter)
    ribbon(faint, second, 7.0, 44 + 22 * _around(rng))
    ribbon(layer, outline, 3.6, 190 + 45 * _around(rng))
    ribbon(layer, bore, 1.6, 90 + 45 * _around(rng))
    wavy = 1 + 0.18 * cloud(rng, HEIGHT_PX, WIDTH_PX, 40)[_GLASS_ROWS]
    shell = np.zeros((HEIGHT_PX, WIDTH_PX), np.float32)
    shell[_GLASS_ROWS] = soften(layer[_GLASS_ROWS], 0.8) * np.float32(1.3) + soften(faint[_GLASS_ROWS], 2.0) * wavy
    x, y = np.arange(WIDTH_PX) - _MIDDLE_X, np.arange(HEIGHT_PX) - _MIDDLE_Y
    for side in (-1, -1, 1, 1):
        depth, length = side * half_diameter * rng.uniform(0.25, 0.9), half_length * rng.uniform(0.4, 0.75)
        along = np.exp(-(((x - rng.normal(0, 25)) / length) ** 6)) * (1 + 0.2 * wander(rng, WIDTH_PX, 50))
        band = bell(y, depth, rng.uniform(3, 11))
        rows = slice(int(_MIDDLE_Y + depth) - 34, int(_MIDDLE_Y + depth) + 35)
        shell[rows] += np.outer(band[rows] * rng.uniform(0.08, 0.3), along).astype(np.float32)
    return shell


def _around(rng: np.random.Generator) -> Light:
    """Slow brightness changes along the outline."""
    return wander(rng, _OUTLINE_POINTS, 9)


def _surround(light: Light, rng: np.random.Generator) -> None:
    """What every bulb has around it: the glow of the dark field and specks of dust, none larger than the smallest defect."""
    glow = np.abs(cloud(rng, HEIGHT_PX, WIDTH_PX, 220))
    glow *= np.float32(0.012)
    glow += np.float32(0.012)
    light += tint(glow, np.array([0.8, 0.9, 1.2], np.float32))
    for x, y in rng.uniform((0, 0), (WIDTH_PX, HEIGHT_PX), (int(rng.integers(8, 34)), 2)):
        stamp(light, x, y, rng.uniform(0.6, 1.6), rng.uniform(0.15, 0.9) * _STEEL)


def _break(bulb: _Bulb, mask: Layer, rng: np.random.Generator) -> None:
    """A piece of the shell is gone: no rim there, a jagged bright edge further in, and the bevel of the fracture behind it."""
    place, inward = _on_rim(bulb, rng)
    half_width, depth = rng.uniform(32, 82), rng.uniform(26, 62)
    tangent = np.array([-inward[1], inward[0]])
    s = np.linspace(-1, 1, 34)
    dent = depth * (1 - np.abs(s) ** rng.uniform(1.6, 3.2))
    jagged = dent * (1 + 0.16 * wander(rng, len(s), 4)) + rng.normal(0, 2.2, len(s)) * (1 - s**2)
    edge = place + np.outer(half_width * s, tangent) + np.outer(jagged, inward)
    bevel = edge + np.outer((1 - s**2) * rng.uniform(7, 17) * (1 + 0.35 * wander(rng, len(s), 3)), inward)
    gone, bright = np.zeros_like(mask), np.zeros_like(mask)
    beyond = place + np.outer(half_width * s[::-1], tangent) - 30 * inward
    patch(gone, np.vstack((edge, beyond)), 255)
    facets = 70 + 55 * wander(rng, len(s), 2)
    for i in range(len(s) - 1):
        patch(bright, np.stack((edge[i], edge[i + 1], bevel[i + 1], bevel[i])), float(np.clip(facets[i], 20, 190)))
    ribbon(bright, bevel, 1.8, 120 + 60 * wander(rng, len(s), 4))
    ribbon(bright, edge, rng.uniform(2.4, 4.0), 215 + 45 * wander(rng, len(s), 3))
    whole = _whole_glass(bulb)
    cv2.min(bright, whole, dst=bright)
    box = box_around(cv2.max(gone, bright), 8)
    bulb.light[box] -= tint(bulb.shell[box] * soften(gone[box], 0.8), _GLASS)
    bulb.light[box] += tint(soften(bright[box], 0.8) * np.float32(rng.uniform(0.9, 1.4)), _GLASS)
    mask[:] = cv2.max(cv2.min(gone, whole), cv2.inRange(bright, (12,), (255,)))


def _whole_glass(bulb: _Bulb) -> Layer:
    """255 on the glass and its rim, 0 in the air: no defect leaves the glass."""
    layer = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    patch(layer, bulb.outline, 255)
    ribbon(layer, bulb.outline, 5.0, 255)
    return layer


def _on_rim(bulb: _Bulb, rng: np.random.Generator) -> tuple[Points, Points]:
    """A point on the outline clear of the leads, and the direction into the glass there."""
    clear = np.flatnonzero(np.abs(bulb.outline[:, 1] - _MIDDLE_Y) > 0.55 * bulb.half_diameter)
    index = int(rng.choice(clear))
    tangent = bulb.outline[(index + 1) % _OUTLINE_POINTS] - bulb.outline[index - 1]
    normal = np.array([-tangent[1], tangent[0]]) / np.hypot(*tangent)
    place = bulb.outline[index]
    return place, normal if normal @ (np.array([_MIDDLE_X, _MIDDLE_Y]) - place) > 0 else -normal


def _shell_wall_damage(bulb: _Bulb, mask: Layer, rng: np.random.Generator) -> None:
    """Scratches in the wall, a chip, or both: what scatters there is bright, and the rim is whole."""
    centre = _in_glass(bulb, rng)
    layer, kind = np.zeros_like(mask), rng.random()
    if kind < 0.7:
        _scratch(layer, centre, rng)
    if kind > 0.4:
        _chip(layer, centre, rng)
    cv2.min(layer, _whole_glass(bulb), dst=layer)
    box = box_around(layer, 8)
    scatter = soften(layer[box], 0.9)
    bulb.light[box] += tint(scatter * np.float32(rng.uniform(0.9, 1.3)), _GLASS)
    mask[box] = scatter > 0.12


def _scratch(layer: Layer, centre: Points, rng: np.random.Generator) -> None:
    direction = rng.uniform(0, np.pi)
    for _ in range(int(rng.integers(2, 6))):
        angle, length = direction + rng.normal(0, 0.14), rng.uniform(45, 125)
        s = np.linspace(-0.5, 0.5, 26)
        heading = np.array([np.cos(angle), np.sin(angle)])
        sideways = np.array([-heading[1], heading[0]])
        bow = rng.normal(0, 0.25) * length * s**2 + 0.7 * wander(rng, len(s), 3)
        points = centre + rng.normal(0, 11, 2) + np.outer(length * s, heading) + np.outer(bow, sideways)
        ribbon(layer, points, rng.uniform(2.0, 4.2) * (1.05 - 4 * s**2 * 0.7), rng.uniform(130, 230) + 45 * wander(rng, len(s), 2))


def _chip(layer: Layer, centre: Points, rng: np.random.Generator) -> None:
    """A shell-shaped flake: a dim irregular field, ripples in it, and a bright side."""
    radius, turn = rng.uniform(13, 30), rng.uniform(0, 2 * np.pi)
    angle = np.linspace(0, 2 * np.pi, 31)
    ragged = radius * (1 + 0.2 * np.resize(wander(rng, 30, 3), 31))
    rim = np.stack((np.cos(angle), np.sin(angle) * rng.uniform(0.55, 1.0)), axis=1) * ragged[:, None]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    rim = rim @ rotation.T
    patch(layer, centre + rim, rng.uniform(45, 85))
    for fraction in (0.45, 0.72):
        ribbon(layer, centre + (rim * fraction)[2:16], 1.8, 120 + 40 * wander(rng, 14, 3))
    ribbon(layer, centre + rim, 2.6, 90 + 150 * np.clip(np.cos(angle - 1.0), 0, 1) + 30 * wander(rng, 31, 2))


def _in_glass(bulb: _Bulb, rng: np.random.Generator) -> Points:
    """A place on the glass, clear of the rim and of the studs' brightest edges."""
    x = rng.uniform(-0.72, 0.72) * bulb.half_length
    y = rng.choice((-1, 1)) * rng.uniform(0.5, 0.78) * bulb.half_diameter
    return np.array([_MIDDLE_X + x, _MIDDLE_Y + y])


def _stain(bulb: _Bulb, mask: Layer, rng: np.random.Generator) -> None:
    """A dried smudge on the glass: it dims what is behind it and scatters brownish or greyish light of its own; its edge is soft."""
    x, y = _MIDDLE_X + rng.uniform(-0.62, 0.62) * bulb.half_length, _MIDDLE_Y + rng.uniform(-0.62, 0.62) * bulb.half_diameter
    radius, flat, turn = rng.uniform(34, 74), rng.uniform(0.55, 1.0), rng.uniform(0, np.pi)
    reach = 2.4 * radius
    box = np.s_[max(0, int(y - reach)) : int(y + reach) + 2, max(0, int(x - reach)) : int(x + reach) + 2]
    rows, columns = np.ogrid[0:HEIGHT_PX, 0:WIDTH_PX]
    rows, columns = rows[box[0]], columns[:, box[1]]
    u = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
    v = (rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)
    distance = np.sqrt(u**2 + (v / flat) ** 2).astype(np.float32) / np.float32(radius)
    ragged = distance + 0.22 * cloud(rng, HEIGHT_PX, WIDTH_PX, 24)[box] + 0.09 * cloud(rng, HEIGHT_PX, WIDTH_PX, 7)[box]
    cover = np.clip((1.0 - ragged) / 0.35 + 0.5, 0, 1)
    inside = np.zeros_like(mask)
    patch(inside, bulb.outline, 255)
    cover *= soften(inside, 1.5)[box]
    film = cover * (0.75 + 0.3 * cloud(rng, HEIGHT_PX, WIDTH_PX, 9)[box] + 0.5 * bell(ragged, 0.95, 0.1))
    colour = rng.uniform(0.28, 0.5) * (np.array([1.0, 0.66, 0.36]) if rng.random() < 0.55 else np.array([0.85, 0.84, 0.8]))
    bulb.light[box] *= tint(1 - rng.uniform(0.45, 0.7) * cover, np.ones(3, np.float32))
    bulb.light[box] += tint(np.maximum(film, 0), colour.astype(np.float32))
    mask[box] = cover > 0.2


_DEFECTS: Mapping[str, Callable[[_Bulb, Layer, np.random.Generator], None]] = {
    "break": _break,
    "shell_wall_damage": _shell_wall_damage,
    "stain": _stain,
}
