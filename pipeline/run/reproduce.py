"""A version's recipe from SQL in, the same training in a fresh process, whether it is the same out.

The same inputs, settings and seed give the same bytes on the same platform. Where processor or
libraries differ from what the version recorded, sums round otherwise and the bytes differ; then its
weights and skills are compared within a tolerance.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import msgspec

import pipeline
from pipeline.config import Learn, Score, Settings
from pipeline.errors import ArtifactCorrupt, PipelineError, SettingsError
from pipeline.register.recorded import Recipe
from pipeline.register.sql import SqlRegistry

#: Distance of a tensor, by that of the recorded one from 0, and of a task's skill, at most.
WEIGHTS, SKILL = 0.01, 0.01
#: No tensor counts as nearer to 0.
TINY = 1e-6


class Reproduced(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of the second training."""

    stream: str
    version: int
    #: same bytes | within tolerance | differs
    verdict: str
    #: Weights and EWC state: (recorded, made again).
    sha256: tuple[str, str]
    ewc_sha256: tuple[str | None, str | None]
    #: Name -> (recorded, here) of what differs; None: not recorded.
    environment: dict[str, tuple[str | None, str]]
    #: The largest |w' - w| / |w| of a tensor, and the largest |skill' - skill|; None: the other is
    #: of another form.
    distance: float | None
    skill: float | None

    @property
    def sentence(self) -> str:
        """The verdict for people, in one line."""
        named = ", ".join(f"{k} {a or '?'} then, {b} now" for k, (a, b) in self.environment.items())
        other = f" ({named})" if named else ""
        if self.verdict == "same bytes":
            return f"version {self.version}: same bytes{other}"
        far = "of another form"
        if self.distance is not None and self.skill is not None:
            far = f"weights {self.distance:.2g} apart (allowed {WEIGHTS:g}), "
            far += f"skills {self.skill:.2g} (allowed {SKILL:g})"
        return f"version {self.version}: {self.verdict}, {far}{other or '; same environment'}"


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """What the fresh process answers."""

    error: str = ""
    weights: bytes = b""
    ewc_sha256: str | None = None
    skills: dict[int, float] = {}
    environment: dict[str, str] = {}


def reproduce(settings: Settings, stream: str, number: int) -> Reproduced:
    """Train a version again and compare.

    Raises
    ------
    PipelineError
        No such stream or version, or its inputs are not kept any more.
    """
    registry = SqlRegistry(settings.database)
    try:
        known = registry.stream(stream)
        if known is None:
            raise PipelineError(f"no stream {stream}")
        recipe = registry.recipe(known.id, number)
        made = _elsewhere(settings, known.id, number)
        if made.error:
            raise PipelineError(f"version {number} cannot be trained again: {made.error}")
        return _compared(stream, number, recipe, made, registry)
    finally:
        registry.close()


def _elsewhere(settings: Settings, stream_id: int, number: int) -> _Made:
    """The answer of a new process, which has nothing in memory."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, settings, stream_id, number))
    process.start()
    theirs.close()
    try:
        return msgspec.msgpack.decode(ours.recv_bytes(), type=_Made)
    except EOFError:
        process.join()
        code = process.exitcode
        raise PipelineError(f"the training's process ended with code {code}") from None
    finally:
        process.kill()
        process.join()
        ours.close()


def _work(answer: Connection, settings: Settings, stream_id: int, number: int) -> None:
    """In the new process: the recipe by its hashes, and nothing else, into a candidate."""
    from pipeline.telemetry import configure

    configure(settings.run.log_format, debug=False, quiet=True)
    try:
        made = _again(settings, stream_id, number)
    except PipelineError as exc:
        made = _Made(error=str(exc))
    answer.send_bytes(msgspec.msgpack.encode(made))


def _again(settings: Settings, stream_id: int, number: int) -> _Made:
    from pipeline.consolidate.consolidation import consolidate
    from pipeline.run.environment import environment
    from pipeline.run.work import Work, inputs

    registry = SqlRegistry(settings.database)
    try:
        recipe = registry.recipe(stream_id, number)
        try:
            work = msgspec.json.decode(recipe.inputs, type=Work)
            score = msgspec.convert(recipe.settings["score"], Score)
            learn = msgspec.convert(recipe.settings["learn"], Learn)
        except (msgspec.ValidationError, KeyError) as exc:
            raise SettingsError(f"its record is of tidemark {recipe.code_version}: {exc}") from None
        try:
            known = inputs(registry, work)
        except ArtifactCorrupt as exc:
            raise ArtifactCorrupt(f"its inputs are not kept: {exc}") from None
    finally:
        registry.close()
    made = consolidate(known, score, learn)
    ewc = hashlib.sha256(made.ewc).hexdigest() if made.ewc else None
    return _Made(
        weights=made.weights,
        ewc_sha256=ewc,
        skills=dict(made.skills),
        environment={"tidemark": pipeline.__version__} | environment(),
    )


def _compared(
    stream: str, number: int, recipe: Recipe, made: _Made, registry: SqlRegistry
) -> Reproduced:
    then = {"tidemark": recipe.code_version} | recipe.settings.get("environment", {})
    differs = {k: (then.get(k), now) for k, now in made.environment.items() if then.get(k) != now}
    sha256 = hashlib.sha256(made.weights).hexdigest()
    is_same = (sha256, made.ewc_sha256) == (recipe.sha256, recipe.ewc_sha256)
    distance, skill = None, None
    if not is_same:
        distance = _distance(registry.get(recipe.sha256), made.weights)
        if recipe.skills.keys() == made.skills.keys():
            apart = (abs(made.skills[task] - value) for task, value in recipe.skills.items())
            skill = max(apart, default=0.0)
    near = distance is not None and distance <= WEIGHTS and skill is not None and skill <= SKILL
    verdict = "within tolerance" if differs and near else "differs"
    return Reproduced(
        stream=stream,
        version=number,
        verdict="same bytes" if is_same else verdict,
        sha256=(recipe.sha256, sha256),
        ewc_sha256=(recipe.ewc_sha256, made.ewc_sha256),
        environment=differs,
        distance=distance,
        skill=skill,
    )


def _distance(before: bytes, after: bytes) -> float | None:
    """The largest |w' - w| / |w| of a tensor; None if they do not correspond."""
    import numpy as np
    from safetensors.numpy import load

    old, new = load(before), load(after)
    if {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
        return None

    def size(tensor: Any) -> float:
        return float(np.linalg.norm(tensor.astype(np.float64).ravel()))

    return max(
        (size(new[k] - tensor) / max(size(tensor), TINY) for k, tensor in old.items()), default=0.0
    )
