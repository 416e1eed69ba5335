"""Labelled folders: read in order, split fairly, and everything that is wrong with them said before a training."""

import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from station.training import dataset
from station.training.dataset import Dataset, DatasetError, Sample, folds, read_folder, read_pictures, split


def picture(seed: int, shape: tuple[int, ...] = (20, 24, 3), kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, dtype=kind)


def write_folder(folder: Path, **counts: int) -> Path:
    """A folder a class; no picture is there twice."""
    for index, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for seed in range(count):
            cv2.imwrite(str(folder / name / f"{seed:03}.png"), picture(1000 * index + seed))
    return folder


def dataset_of(**shas: str) -> Dataset:
    """Without files: a letter is a picture."""
    samples = (
        Sample(Path(name, str(number)), label, sha) for label, (name, all_) in enumerate(shas.items()) for number, sha in enumerate(all_)
    )
    return Dataset(tuple(shas), tuple(samples))


def only_warning(folder: Path, **more: object) -> str:
    (warning,) = read_folder(folder, **more).warnings
    return warning


# --- reading


def test_a_folder_a_class_is_read_in_order(tmp_path):
    read = read_folder(write_folder(tmp_path, good=6, scratch=5))
    assert read.classes == ("good", "scratch")
    assert [(sample.path.parent.name, sample.path.name, sample.label) for sample in read.samples[5:7]] == [
        ("good", "005.png", 0),
        ("scratch", "000.png", 1),
    ]
    assert read.counts() == {"good": 6, "scratch": 5}
    assert read.warnings == ()


def test_a_data_set_with_masks_is_read_from_its_images(tmp_path):
    write_folder(tmp_path / "images", good=2, scratch=2)
    write_folder(tmp_path / "masks", scratch=2)
    assert read_folder(tmp_path).counts() == {"good": 2, "scratch": 2}


def test_what_is_no_picture_is_left_out(tmp_path):
    write_folder(tmp_path, good=5, scratch=5)
    (tmp_path / "good" / "notes.txt").write_text("x")
    (tmp_path / "good" / ".hidden.png").write_text("x")
    (tmp_path / "good" / "album.png").mkdir()
    (tmp_path / ".git").mkdir()
    assert read_folder(tmp_path).counts() == {"good": 5, "scratch": 5}
    assert read_folder(tmp_path).warnings == ()


def test_links_to_pictures_and_to_folders_are_followed(tmp_path):
    write_folder(tmp_path / "elsewhere", good=5, scratch=5)
    (tmp_path / "data" / "scratch").mkdir(parents=True)
    (tmp_path / "data" / "good").symlink_to(tmp_path / "elsewhere" / "good")
    for path in (tmp_path / "elsewhere" / "scratch").iterdir():
        (tmp_path / "data" / "scratch" / path.name).symlink_to(path)
    read = read_folder(tmp_path / "data")
    assert read.counts() == {"good": 5, "scratch": 5}
    assert read.sha256 == read_folder(tmp_path / "elsewhere").sha256


def test_the_classes_of_a_network_give_the_labels(tmp_path):
    read = read_folder(write_folder(tmp_path, good=5, scratch=5), ("scratch", "good"))
    assert read.classes == ("scratch", "good")
    assert {sample.path.parent.name: sample.label for sample in read.samples} == {"scratch": 0, "good": 1}
    assert [sample.label for sample in read.samples] == [0] * 5 + [1] * 5


def test_pictures_come_as_rgb_with_their_label(tmp_path):
    write_folder(tmp_path, good=1, scratch=1)
    expected = cv2.cvtColor(cv2.imread(str(tmp_path / "scratch" / "000.png")), cv2.COLOR_BGR2RGB)
    (_, (pixels, pixel_format, label)) = read_pictures(read_folder(tmp_path).samples)
    assert np.array_equal(pixels, expected)
    assert (pixel_format, label) == ("RGB8", 1)


def test_a_picture_that_is_gone_after_it_was_read_is_named(tmp_path):
    read = read_folder(write_folder(tmp_path, good=1, scratch=1))
    (tmp_path / "good" / "000.png").unlink()
    with pytest.raises(DatasetError, match=r"good.000\.png"):
        list(read_pictures(read.samples))


# --- what a picture and a data set are


def test_a_pictures_hash_is_of_its_pixels_and_not_of_its_file(tmp_path):
    write_folder(tmp_path, good=1, scratch=1)
    first = cv2.imread(str(tmp_path / "good" / "000.png"))
    cv2.imwrite(str(tmp_path / "good" / "a.bmp"), first)
    cv2.imwrite(str(tmp_path / "good" / "b.png"), first.reshape(24, 20, 3))
    shas = {sample.path.name: sample.sha256 for sample in read_folder(tmp_path).samples if sample.label == 0}
    assert shas["000.png"] == shas["a.bmp"] != shas["b.png"]


def test_a_data_sets_hash_is_of_classes_labels_and_pictures_and_not_of_names():
    data = dataset_of(good="abc", scratch="def")
    assert len(data.sha256) == 64
    assert dataset_of(good="cab", scratch="dfe").sha256 == data.sha256
    for other in (dataset_of(good="ab", scratch="cdef"), dataset_of(good="abc", stain="def"), dataset_of(good="abc", scratch="deff")):
        assert other.sha256 != data.sha256


def test_reordered_classes_keep_their_pictures():
    data = dataset_of(a="x", b="yz", c="w").reordered(("c", "a", "b"))
    assert data.classes == ("c", "a", "b")
    assert [(sample.path.parent.name, sample.label, sample.sha256) for sample in data.samples] == [
        ("c", 0, "w"),
        ("a", 1, "x"),
        ("b", 2, "y"),
        ("b", 2, "z"),
    ]
    assert data.reordered(("a", "b", "c")) == dataset_of(a="x", b="yz", c="w")
    with pytest.raises(ValueError, match="not those of the data"):
        data.reordered(("a", "b"))


# --- refused


@pytest.mark.parametrize("counts", [{}, {"good": 3}])
def test_fewer_than_two_classes_are_refused(tmp_path, counts):
    with pytest.raises(DatasetError, match="at least two"):
        read_folder(write_folder(tmp_path, **counts))


def test_a_folder_that_is_no_class_of_the_network_is_refused_with_the_nearest_name(tmp_path):
    write_folder(tmp_path, good=2, scrathces=2, Stain=2)
    with pytest.raises(DatasetError) as refused:
        read_folder(tmp_path, ("good", "scratches", "stain"))
    assert str(refused.value).splitlines() == [
        f"{tmp_path / 'Stain'}: Stain is no class of the network; did you mean stain?",
        f"{tmp_path / 'scrathces'}: scrathces is no class of the network; did you mean scratches?",
    ]
    with pytest.raises(DatasetError, match="there are yes, no"):
        read_folder(tmp_path, ("yes", "no"))


def test_a_folder_without_any_class_of_the_network_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="there should be some of good, scratch"):
        read_folder(tmp_path, ("good", "scratch"))


def test_a_missing_folder_and_empty_classes_are_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        read_folder(tmp_path / "nowhere")
    write_folder(tmp_path, good=1, stain=0, dent=0)
    with pytest.raises(DatasetError, match=r"(?s)class dent has no picture.*class stain has no picture"):
        read_folder(tmp_path)


def test_a_class_name_with_a_line_break_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="printable"):
        read_folder(write_folder(tmp_path, **{"good": 1, "bad\nworse": 1}))


def test_every_bad_file_is_named_at_once(tmp_path):
    write_folder(tmp_path, good=4, scratch=3)
    whole = (tmp_path / "good" / "000.png").read_bytes()
    (tmp_path / "good" / "000.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "good" / "001.png").write_bytes(b"")
    (tmp_path / "good" / "002.png").write_text("no picture")
    cv2.imwrite(str(tmp_path / "scratch" / "000.png"), picture(1, (15, 40, 3)))
    (tmp_path / "scratch" / "001.png").unlink()
    (tmp_path / "scratch" / "001.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DatasetError) as refused:
        read_folder(tmp_path)
    lines = str(refused.value).splitlines()
    assert len(lines) == 5
    for line, words in zip(lines, ("not a whole", "is empty", "not a whole", "is 40 x 15 px", "cannot be read"), strict=True):
        assert line.startswith(str(tmp_path))
        assert words in line


def test_of_many_bad_files_twenty_are_named_and_the_rest_counted(tmp_path):
    write_folder(tmp_path, good=1, scratch=1)
    for number in range(27):
        (tmp_path / "good" / f"bad{number:02}.png").write_bytes(b"")
    with pytest.raises(DatasetError) as refused:
        read_folder(tmp_path)
    lines = str(refused.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 7 more"


def test_a_header_that_promises_a_gigantic_picture_is_named(tmp_path):
    write_folder(tmp_path, good=1, scratch=1)
    content = bytearray((tmp_path / "good" / "000.png").read_bytes())
    content[16:24] = (70_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "good" / "huge.png").write_bytes(content)
    with pytest.raises(DatasetError, match=r"huge\.png: cannot be decoded"):
        read_folder(tmp_path)


def test_the_same_picture_in_two_classes_is_refused_with_both_files(tmp_path):
    write_folder(tmp_path, good=2, scratch=2)
    cv2.imwrite(str(tmp_path / "scratch" / "again.bmp"), cv2.imread(str(tmp_path / "good" / "001.png")))
    with pytest.raises(DatasetError, match=r"scratch.again\.bmp \(scratch\) and .*good.001\.png \(good\) are the same picture"):
        read_folder(tmp_path)


# --- warned of


def test_the_same_picture_twice_in_a_class_is_a_warning(tmp_path):
    write_folder(tmp_path, good=5, scratch=5)
    shutil.copy(tmp_path / "good" / "003.png", tmp_path / "good" / "009.png")
    warning = only_warning(tmp_path)
    assert "1 picture copied" in warning
    assert "009.png is" in warning
    assert "003.png" in warning


def test_pictures_of_16_bits_are_scaled_with_a_warning(tmp_path):
    write_folder(tmp_path, good=5, scratch=5)
    sixteen = picture(1, (20, 24), np.uint16)
    cv2.imwrite(str(tmp_path / "good" / "deep.png"), sixteen)
    cv2.imwrite(str(tmp_path / "good" / "deep.tif"), picture(2, (20, 24), np.uint16))
    warning = only_warning(tmp_path)
    assert "2 pictures of 16 bits" in warning
    assert "deep.png" in warning
    (deep,) = [sample for sample in read_folder(tmp_path).samples if sample.path.name == "deep.png"]
    ((pixels, _, _),) = read_pictures([deep])
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[:, :, 0].astype(int) - sixteen / 257).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_alpha_channel_is_ignored_with_a_warning(tmp_path, suffix):
    write_folder(tmp_path, good=5, scratch=5)
    cv2.imwrite(str(tmp_path / "good" / f"clear.{suffix}"), picture(1, (20, 24, 4)))
    warning = only_warning(tmp_path)
    assert "1 picture with an alpha channel" in warning
    assert f"clear.{suffix}" in warning


@pytest.mark.parametrize("names", [("good", "scratch", "scratches"), ("Good", "good"), ("good", "shell wall", "shell_wall")])
def test_class_names_like_one_another_are_a_warning(tmp_path, names):
    warning = only_warning(write_folder(tmp_path, **dict.fromkeys(names, 5)))
    assert f"{names[-2]} and {names[-1]}" in warning
    assert "typo of the other?" in warning


def test_names_that_only_count_or_share_a_word_are_no_typos(tmp_path):
    assert (
        read_folder(write_folder(tmp_path, **dict.fromkeys(("scratch_1", "scratch_2", "ok", "not_ok", "patches", "scratches"), 5))).warnings
        == ()
    )


def test_few_pictures_of_a_class_are_a_warning(tmp_path):
    assert only_warning(write_folder(tmp_path, good=5, scratch=4)).startswith("class scratch: has 4 pictures")


def test_a_class_under_a_tenth_of_the_largest_is_a_warning(tmp_path):
    write_folder(tmp_path, good=51, scratch=5, stain=6)
    warning = only_warning(tmp_path)
    assert "51 pictures of good: scratch (5);" in warning
    (tmp_path / "good" / "000.png").unlink()
    assert read_folder(tmp_path).warnings == ()


def test_pictures_in_the_wrong_place_are_a_warning(tmp_path):
    write_folder(tmp_path, good=5, scratch=5)
    cv2.imwrite(str(tmp_path / "stray.png"), picture(1))
    (tmp_path / "good" / "first" / "second").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "good" / "first" / "second" / "deep.png"), picture(2))
    beside, within = read_folder(tmp_path).warnings
    assert "1 picture beside the folders" in beside
    assert "stray.png" in beside
    assert "1 picture in folders within it" in within
    assert "deep.png" in within


def test_different_proportions_are_a_warning_with_the_sizes(tmp_path):
    write_folder(tmp_path, good=5, scratch=5)
    cv2.imwrite(str(tmp_path / "good" / "larger.png"), picture(1, (40, 48, 3)))
    assert read_folder(tmp_path).warnings == ()
    cv2.imwrite(str(tmp_path / "good" / "wider.png"), picture(2, (20, 60, 3)))
    assert "24 x 20 (10), 48 x 40 (1), 60 x 20 (1) px" in only_warning(tmp_path)


def test_a_class_of_the_network_without_a_folder_is_a_warning(tmp_path):
    assert "class stain: there is no folder" in only_warning(write_folder(tmp_path, good=5), classes=("good", "stain"))


# --- split and folds


def test_the_split_takes_the_same_share_of_every_class():
    data = dataset_of(good="abcdefghijklmnopqrst", scratch="ABCDE")
    training, held_back = split(data, 0.2, seed=1)
    assert [sum(sample.label == label for sample in held_back) for label in (0, 1)] == [4, 1]
    assert sorted(training + held_back, key=data.samples.index) == list(data.samples)
    assert split(data, 0.2, seed=1) == (training, held_back)
    assert split(data, 0.2, seed=2) != (training, held_back)


@pytest.mark.parametrize("validation", [0.01, 0.5, 0.99])
def test_either_side_has_every_class_whatever_the_share(validation):
    data = dataset_of(good="aaab", scratch="AB")
    for seed in range(20):
        for side in split(data, validation, seed):
            assert {sample.label for sample in side} == {0, 1}


def test_copies_are_on_the_same_side():
    data = dataset_of(good="aabbccddeeff", scratch="AABBBCDE")
    for seed in range(50):
        training, held_back = split(data, 0.3, seed)
        assert not {sample.sha256 for sample in training} & {sample.sha256 for sample in held_back}


@pytest.mark.parametrize("scratch", ["A", "AAA"])
def test_a_class_of_one_picture_cannot_be_split(scratch):
    with pytest.raises(DatasetError, match="class scratch: has one picture"):
        split(dataset_of(good="ab", scratch=scratch), 0.2, seed=0)


def test_every_picture_is_held_back_in_exactly_one_fold():
    data = dataset_of(good="abcdefghijklm", scratch="ABCDEFG")
    parts = folds(data, 3, seed=0)
    assert len(parts) == 3
    assert sorted((sample for _, held_back in parts for sample in held_back), key=data.samples.index) == list(data.samples)
    for training, held_back in parts:
        assert sorted(training + held_back, key=data.samples.index) == list(data.samples)
        assert sum(sample.label == 0 for sample in held_back) in {4, 5}
        assert sum(sample.label == 1 for sample in held_back) in {2, 3}
        assert len(held_back) in {6, 7}
    assert folds(data, 3, seed=0) == parts
    assert folds(data, 3, seed=1) != parts


def test_copies_are_in_the_same_fold():
    data = dataset_of(good="aaabbccdefgh", scratch="AABBBCDE")
    for seed in range(20):
        for training, held_back in folds(data, 4, seed):
            assert not {sample.sha256 for sample in training} & {sample.sha256 for sample in held_back}
            assert sum(sample.label == 0 for sample in held_back) == 3


def test_more_folds_than_pictures_are_refused():
    with pytest.raises(DatasetError, match="class scratch: has 2 different pictures for 3 folds"):
        folds(dataset_of(good="abcd", scratch="AAB"), 3, seed=0)
    with pytest.raises(DatasetError, match="write 2 or more"):
        folds(dataset_of(good="abcd", scratch="AB"), 1, seed=0)


def test_a_class_without_pictures_is_in_no_side():
    data = Dataset(("good", "scratch", "stain"), dataset_of(good="abcd", scratch="ABCD").samples)
    training, held_back = split(data, 0.25, seed=0)
    assert (len(training), len(held_back)) == (6, 2)
    assert [len(held) for _, held in folds(data, 2, seed=0)] == [4, 4]


def test_the_nearest_name_is_asked_for():
    assert dataset.nearest("GOOD", ("bad", "good")) == "did you mean good?"
    assert dataset.nearest("qqq", ("bad", "good")) == "there are bad, good"


def test_the_copy_in_the_published_pictures_is_found(data):
    read = read_folder(data / "neu")
    (warning,) = read.warnings
    assert "patches_105.jpg" in warning
    assert "patches_101.jpg" in warning
    for seed in range(10):
        _, held_back = split(read, 0.2, seed)
        assert sum(sample.path.stem in {"patches_101", "patches_105"} for sample in held_back) in {0, 2}
