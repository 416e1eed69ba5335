"""A training may be killed at any moment: begun again it goes on from where it was, and ends in the very same file."""

import hashlib
import shutil
import signal
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from small_training import Job, Trainings, narrow_channels, small, trainings, write_pictures, write_trunk

from station.training.checkpoint import Checkpoints
from station.training.descent import Phase
from station.training.train import Settings
from station.vision.dvgg16 import NetworkDescription

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def processes() -> Iterator[Trainings]:
    with trainings() as started:
        yield started


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkDescription, "channels", narrow_channels)
        return write_trunk(tmp_path_factory.mktemp("trunk") / "trunk.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "data", 8)


def settings_of(way: str, trunk: str) -> Settings:
    if way == "from scratch":
        return small("none", from_scratch=Phase(epochs=4, learning_rate=1e-3, batch=5, at_once=5, cosine=True))
    return small(trunk, folds=2) if way == "cross-validation" else small(trunk, trunks=4)


def job(data: Path, settings: Settings, name: str = "plate") -> Job:
    (data.parent / "work").mkdir(exist_ok=True)
    return Job(str(data), str(data.parent / "work" / f"{name}.safetensors"), asdict(settings))


def work(job: Job) -> Path:
    return Path(job.output).with_suffix("")


def sha256(job: Job) -> str:
    return hashlib.sha256(Path(job.output).read_bytes()).hexdigest()


def undisturbed(processes: Trainings, data: Path, settings: Settings) -> str:
    whole = job(data, settings, "undisturbed")
    assert processes.exit_code(whole) == 0
    assert not any("goes on" in line for line in whole.lines() if "epochs:" not in line)
    return sha256(whole)


# --- killed


@pytest.mark.parametrize("way", ["both phases", "cross-validation", "from scratch"])
def test_a_training_that_is_killed_again_and_again_ends_in_the_same_file(processes: Trainings, data: Path, trunk: str, way: str) -> None:
    """Each process dies in its third, fourth, fifth or sixth step: some steps were kept by then, others are lost."""
    killed = job(data, settings_of(way, trunk))
    deaths = 0
    while (ended := processes.exit_code(replace(killed, die_in_step=3 + deaths % 4))) != 0:
        assert ended == KILLED
        assert not Path(killed.output).exists()
        deaths += 1
        assert deaths < 30
    assert deaths >= 3
    assert any("goes on after epoch" in line for line in killed.lines())
    assert sha256(killed) == undisturbed(processes, data, settings_of(way, trunk))


@pytest.mark.parametrize(
    ("way", "die_in_step", "words"),
    [
        ("both phases", 5, "phase 1: goes on after epoch 1, step 1"),
        ("both phases", 10, "phase 1: goes on after epoch 3, step 0"),
        ("both phases", 14, "phase 2: goes on after epoch 1, step 0"),
        ("cross-validation", 17, "fold 1 of 2, signed_sqrt_l2, 3 epochs: goes on after epoch 2, step 0"),
        ("from scratch", 12, "from scratch: goes on after epoch 3, step 1"),
    ],
)
def test_it_goes_on_from_the_last_step_that_was_kept(
    processes: Trainings, data: Path, trunk: str, way: str, die_in_step: int, words: str
) -> None:
    killed = job(data, settings_of(way, trunk))
    assert processes.exit_code(replace(killed, die_in_step=die_in_step)) == KILLED
    assert processes.exit_code(killed) == 0
    assert words in killed.lines()
    assert sha256(killed) == undisturbed(processes, data, settings_of(way, trunk))


@pytest.mark.parametrize(
    ("die_in_save", "words"), [(1, ""), (3, "phase 1: goes on after epoch 1, step 0"), (9, "phase 2: goes on after epoch 0, step 1")]
)
def test_a_checkpoint_that_was_being_written_never_counts(
    processes: Trainings, data: Path, trunk: str, die_in_save: int, words: str
) -> None:
    killed = job(data, small(trunk, trunks=4))
    assert processes.exit_code(replace(killed, die_in_save=die_in_save)) == KILLED
    (half,) = work(killed).glob("checkpoints/*/.*")
    assert half.stat().st_size > 0
    assert processes.exit_code(killed) == 0
    assert [line for line in killed.lines() if "goes on" in line][-1:] == [words][: len(words)]
    assert sha256(killed) == undisturbed(processes, data, small(trunk, trunks=4))


def test_a_finished_training_is_found_finished(processes: Trainings, data: Path, trunk: str) -> None:
    """So that nothing is lost when what comes after it fails; the caller deletes the checkpoints."""
    done = job(data, small(trunk))
    assert processes.exit_code(done) == 0
    first = sha256(done)
    assert processes.exit_code(done) == 0
    assert sha256(done) == first
    assert any("goes on" in line for line in done.lines())


# --- another training


@pytest.mark.parametrize("changed", ["settings", "label", "picture", "trunk"])
def test_whatever_changes_the_training_starts_over(processes: Trainings, data: Path, trunk: str, changed: str, tmp_path: Path) -> None:
    own_trunk = str(shutil.copy(trunk, tmp_path / "trunk.safetensors"))
    before = job(data, small(own_trunk))
    assert processes.exit_code(replace(before, die_in_step=8)) == KILLED
    after = before
    if changed == "settings":
        after = job(data, small(own_trunk, seed=1))
    elif changed == "label":
        (data / "good/000.png").rename(data / "stain/100.png")
    elif changed == "picture":
        write_pictures(tmp_path / "other", 1)
        (tmp_path / "other/stain/000.png").replace(data / "good/000.png")
        (data / "stain/000.png").unlink()
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(NetworkDescription, "channels", narrow_channels)
            write_trunk(Path(own_trunk), seed=1)
    assert processes.exit_code(after) == 0
    assert not any("goes on" in line for line in after.lines())
    assert sha256(after) == undisturbed(processes, data, Settings(**{**after.settings, "phase_1": small(trunk).phase_1}))


# --- on disk


def test_what_is_kept_is_found_again_by_its_name(tmp_path: Path) -> None:
    kept = Checkpoints.of(tmp_path, {"seed": 0})
    kept.save("phase 1", {"step": 3, "weight": torch.arange(3.0), "nothing": None})
    kept.save("phase 2", {"step": 4})
    again = Checkpoints.of(tmp_path, {"seed": 0})
    found = again.load("phase 1")
    assert found is not None
    assert found["step"] == 3
    assert torch.equal(found["weight"], torch.arange(3.0))
    assert again.load("phase 2") == {"step": 4}
    assert again.load("phase 3") is None
    assert Checkpoints.of(tmp_path, {"seed": 1}).load("phase 1") is None


def test_of_all_processes_one_writes(tmp_path: Path) -> None:
    Checkpoints.of(tmp_path / "c", {}, writes=False).save("phase 1", {"step": 3})
    assert not (tmp_path / "c").exists()
    Checkpoints.of(tmp_path / "c", {}).save("phase 1", {"step": 3})
    assert Checkpoints.of(tmp_path / "c", {}, writes=False).load("phase 1") == {"step": 3}


def test_a_state_is_due_when_more_work_than_allowed_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    kept = Checkpoints(tmp_path, every_s=60)
    kept.save("phase 1", {})
    now_s = 1059.9
    assert not kept.due()
    now_s = 1060.0
    assert kept.due()
    kept.save("phase 1", {})
    assert not kept.due()
    now_s = 1120.0
    assert kept.due()
