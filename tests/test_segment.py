import cv2
import numpy as np
import pytest

from station.vision.segment import Fixed, Otsu, Region, segment


def blobs(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((28, 28)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return ((smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255).astype(np.uint8)


def literal_regions(grey: np.ndarray, sigma: int) -> set[Region]:
    """Eq. 6 and a flood fill over the eight neighbours, pixel by pixel."""
    todo = {(x, y) for y in range(grey.shape[0]) for x in range(grey.shape[1]) if grey[y, x] >= sigma}
    regions = set()
    while todo:
        grown, edge = [], [todo.pop()]
        while edge:
            x, y = edge.pop()
            grown.append((x, y))
            near = {(x + dx, y + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)} & todo
            todo -= near
            edge += near
        xs, ys = [x for x, _ in grown], [y for _, y in grown]
        box = (min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
        regions.add(Region(box, len(grown), max(int(grey[y, x]) for x, y in grown)))
    return regions


def literal_otsu(grey: np.ndarray) -> int:
    """The sigma that parts the greys with the greatest variance between the two sides, tried one by one."""

    def between(sigma: int) -> float:
        low, high = grey[grey < sigma].astype(float), grey[grey >= sigma].astype(float)
        return low.size * high.size * (low.mean() - high.mean()) ** 2 if low.size and high.size else 0.0

    return max(range(1, 256), key=between)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sigma", [1, 90, 128, 200, 255])
def test_regions_are_those_of_the_literal_loop(seed, sigma):
    heat = blobs(seed)
    grey = cv2.resize(heat, (100, 60), interpolation=cv2.INTER_LINEAR)
    assert set(segment(heat, (100, 60), Fixed(sigma))) == literal_regions(grey, sigma)


@pytest.mark.parametrize("seed", range(4))
def test_otsu_parts_the_greys_as_the_literal_loop(seed):
    heat = blobs(seed)
    grey = cv2.resize(heat, (100, 60), interpolation=cv2.INTER_LINEAR)
    assert set(segment(heat, (100, 60), Otsu())) == literal_regions(grey, literal_otsu(grey))


def test_sigma_itself_is_defect():
    heat = np.array([[99, 0, 100]], dtype=np.uint8)
    assert segment(heat, (3, 1), Fixed(100)) == (Region((2, 0, 1, 1), 1, 100),)


def test_the_largest_region_comes_first_and_small_ones_are_left_out():
    heat = np.zeros((10, 20), dtype=np.uint8)
    heat[1:3, 1:3] = 255
    heat[5:9, 10:18] = 200
    heat[0, 19] = 130
    large, small = Region((10, 5, 8, 4), 32, 200), Region((1, 1, 2, 2), 4, 255)
    assert segment(heat, (20, 10), Fixed(128), min_area_px=2) == (large, small)
    assert segment(heat, (20, 10), Fixed(128), min_area_px=5) == (large,)


def test_boxes_are_in_camera_pixels_and_inside_the_picture():
    heat = np.zeros((28, 28), dtype=np.uint8)
    heat[20:, 20:] = 255
    (region,) = segment(heat, (1328, 480), Fixed(128))
    x, y, width, height = region.box
    assert (x + width, y + height) == (1328, 480)
    assert abs(x - 1328 * 20 / 28) <= 2
    assert abs(y - 480 * 20 / 28) <= 2


@pytest.mark.parametrize("threshold", [Fixed(1), Otsu()])
def test_a_dark_heat_map_has_no_region(threshold):
    assert segment(np.zeros((28, 28), dtype=np.uint8), (672, 608), threshold) == ()


@pytest.mark.parametrize("sigma", [0, 256])
def test_a_threshold_that_decides_nothing_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma"):
        Fixed(sigma)
