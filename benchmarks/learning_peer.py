"""Avalanche in an environment of its own: made once, asked by its published script."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from benchmarks.detection_data import SHARED
from benchmarks.result import BUILD

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch==2.13.0", "avalanche-lib==0.6.0", "scikit-learn", "safetensors")
TIMED = Path(__file__).parent / "learning_peer_timed.py"
SCRIPT = SHARED / "bench" / "avalanche_peer.py"


def environment() -> str:
    """Its python; made under build/ if it is not there, which takes minutes."""
    home = BUILD / "peer"
    python, made = home / "bin" / "python", home / ".installed"
    if not made.exists():
        print(f"making {home} with {', '.join(PACKAGES)}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*install, *constraints, *PACKAGES], check=True, stdout=sys.stderr)
        made.touch()
    return str(python)


def timed(
    python: str, tasks: Path, method: str, *, hidden: int, epochs: int, kept: int
) -> dict[str, float]:
    """One training on tasks from a file: its seconds, steps, and loss on all tasks at the end."""
    command = [python, str(TIMED), str(tasks), method, *map(str, (hidden, epochs, kept))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def ask(python: str, tasks: str, method: str, seed: int, *more: str) -> dict[str, Any]:
    """One run of the peer with Adam, which is what we use: its matrix, summary and seconds."""
    command = [python, str(SCRIPT), "--tasks", tasks, "--method", method, "--seed", str(seed)]
    done = subprocess.run(
        [*command, "--optimizer", "adam", *more], check=True, capture_output=True, text=True
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
