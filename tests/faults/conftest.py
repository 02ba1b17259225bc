from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_collections() -> Iterator[None]:
    """What was imported is never garbage: a collection after each death looks at that life only."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def every() -> int:
    """Of the steps of the sweeps beside the first, so many go into one that is taken.

    `FAULTS=all` takes every one of them. It divides the number of no list of faults.
    """
    return 1 if os.environ.get("FAULTS") == "all" else 7
