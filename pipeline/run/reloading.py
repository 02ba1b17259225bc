"""Schedules that change without a restart: the settings' file, read again when it has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Schedule, Settings, file_of, load


class Reloading:
    """Looks whether the file is another than before, by its time, size and inode.

    Parameters
    ----------
    config
        As `config.load` has it; without a file nothing changes.
    settings
        What it held when it was read last.
    """

    def __init__(self, config: Path | None, settings: Settings) -> None:
        self.config = config
        self.file = file_of(config)
        self._schedules = settings.schedule
        self._stamp = self._look()

    def schedules(self) -> Sequence[Schedule] | None:
        """The schedules, if they are others than before; of all else, nothing is taken.

        A file that cannot be found changes nothing: it may be being replaced.

        Raises
        ------
        SettingsError
            The file cannot be read. Said once: then it has to change again.
        """
        stamp = self._look()
        if stamp is None or stamp == self._stamp:
            return None
        self._stamp = stamp
        found = load(self.config).schedule
        if found == self._schedules:
            return None
        self._schedules = found
        return found

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self.file.stat() if self.file else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None
