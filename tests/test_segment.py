import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from station.vision.segment import Fixed, Otsu, Region, Threshold, covered, segment


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


def statistics_of_all_labels(heat: np.ndarray, size: tuple[int, int], threshold: Threshold, min_area_px: int) -> tuple[list, np.ndarray]:
    """The regions, largest first, and the pixels they cover, from OpenCV's statistics of every pixel: slow, and without any window."""
    grey = cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR)
    otsu = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    binary = np.where(grey >= threshold.sigma, 255, 0).astype(np.uint8) if isinstance(threshold, Fixed) else otsu
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    reported = [label for label in range(1, len(statistics)) if statistics[label][4] >= min_area_px]
    regions = [
        Region(tuple(statistics[label][:4].tolist()), int(statistics[label][4]), int(grey[labels == label].max())) for label in reported
    ]
    return sorted(regions, key=lambda region: (-region.area_px, region.box)), np.isin(labels, reported)


@settings(deadline=None, max_examples=400)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 28), st.integers(1, 28)),
    levels=st.integers(2, 256),
    size=st.none() | st.tuples(st.integers(1, 200), st.integers(1, 200)),
    threshold=st.builds(Fixed, st.integers(1, 255)) | st.just(Otsu()),
    min_area_px=st.sampled_from([0, 1, 2, 5, 50]),
)
def test_no_bit_differs_from_the_statistics_of_all_labels(seed, shape, levels, size, threshold, min_area_px):
    heat = np.random.default_rng(seed).integers(0, levels, shape) * 255 // (levels - 1)
    arguments = heat.astype(np.uint8), size or shape[::-1], threshold, min_area_px
    regions, pixels = statistics_of_all_labels(*arguments)
    assert segment(*arguments) == tuple(regions)
    assert covered(*arguments).dtype == np.bool_
    assert np.array_equal(covered(*arguments), pixels)


@pytest.mark.parametrize("threshold", [Fixed(60), Fixed(128), Otsu()])
def test_no_bit_differs_at_a_cameras_size(threshold):
    arguments = blobs(7), (1328, 1048), threshold, 16
    regions, pixels = statistics_of_all_labels(*arguments)
    assert segment(*arguments) == tuple(regions)
    assert np.array_equal(covered(*arguments), pixels)


def test_a_region_in_the_hole_of_another_is_one_of_its_own():
    heat = np.full((9, 9), 200, dtype=np.uint8)
    heat[2:7, 2:7] = 0
    heat[4, 4] = 210
    assert segment(heat, (9, 9), Fixed(128)) == (Region((0, 0, 9, 9), 56, 200), Region((4, 4, 1, 1), 1, 210))
    assert covered(heat, (9, 9), Fixed(128), min_area_px=2).sum() == 56


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
