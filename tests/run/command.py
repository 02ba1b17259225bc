"""The command line as a process runs it, without the seconds that a process takes to import."""

from __future__ import annotations

import gc
import io
import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import structlog

from pipeline import cli
from pipeline.cli.shared import options


def tidemark(directory: Path, *arguments: str, **environ: str) -> CompletedProcess[str]:
    """`tidemark ...` in a directory: its exit code, and all that it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, _of_its_own(patch):
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["tidemark", *arguments])
        for name, value in environ.items():
            patch.setenv(name, value)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            cli.main()
    return CompletedProcess(sys.argv, ended.value.code, out.getvalue(), err.getvalue())


@contextmanager
def _of_its_own(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a process sets up for itself, put back: options, log lines, signals, open files."""
    patch.setattr(options, "config", None)
    patch.setattr(options, "debug", False)
    configured = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    asked = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    gc.freeze()  # what it leaves is looked for among what it made
    try:
        yield
    finally:
        for number, handler in asked.items():
            signal.signal(number, handler)
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**configured)
        with warnings.catch_warnings():  # a process that ends closes what it had open
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        gc.unfreeze()
