"""What a training's bytes depend on besides its inputs: processor and libraries."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

#: Libraries whose arithmetic or chance is in a version.
LIBRARIES = ("torch", "numpy", "safetensors")


@cache
def environment() -> dict[str, str]:
    """Of this process; threads are not in it, since a consolidation always has one."""
    import torch

    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
