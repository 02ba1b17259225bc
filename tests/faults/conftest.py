from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def quick_collections(_thawed: None) -> None:
    """What there is before a test is no garbage of it: a collection after each death looks at that
    life only. Compiled statements of the tests before are half a gigabyte."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def every() -> int:
    """Of the steps of the sweeps beside the first, so many go into one that is taken.

    `FAULTS=all` takes every one of them. It divides the number of no list of faults.
    """
    return 1 if os.environ.get("FAULTS") == "all" else 7
