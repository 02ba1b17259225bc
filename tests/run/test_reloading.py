"""The settings' file, read again once it has changed; by its time, size and inode."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.config import Schedule, Settings, load
from pipeline.errors import SettingsError
from pipeline.run.reloading import Reloading

ONE = '[[schedule]]\nname = "one"\nevery_s = 60\n'
TWO = '[[schedule]]\nname = "two"\nevery_s = 90\n'


def write(path: Path, text: str, at: int) -> None:
    """As an editor does: another file in its place, of another time."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.utime(new, (at, at))
    new.replace(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tidemark.toml"
    write(path, ONE, 1)
    return path


def test_schedules_are_told_once_after_they_changed(file: Path) -> None:
    """Not what stayed, nor another setting, nor a file that is away for a moment."""
    reloading = Reloading(file, load(file, {}))
    assert reloading.schedules() is None
    write(file, TWO, 2)
    assert reloading.schedules() == (Schedule(name="two", every_s=90.0),)
    assert reloading.schedules() is None
    write(file, f"{TWO}\n[run]\nlease_s = 5\n", 3)
    assert reloading.schedules() is None
    file.unlink()
    assert reloading.schedules() is None
    write(file, "", 4)
    assert reloading.schedules() == ()


def test_a_file_that_cannot_be_read_is_told_once(file: Path) -> None:
    """What it says is taken when it is put right."""
    reloading = Reloading(file, load(file, {}))
    write(file, "[[schedule]]\n", 2)
    with pytest.raises(SettingsError, match="name"):
        reloading.schedules()
    assert reloading.schedules() is None
    write(file, TWO, 3)
    assert reloading.schedules() == (Schedule(name="two", every_s=90.0),)


def test_without_a_file_nothing_changes() -> None:
    """Settings of defaults and environment alone."""
    assert Reloading(None, Settings()).schedules() is None
