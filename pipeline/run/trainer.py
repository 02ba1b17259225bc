"""Claim a request, consolidate, gate, register: the process that makes versions."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import structlog

import pipeline
from pipeline.config import Settings, digest
from pipeline.consolidate.consolidation import Inputs, consolidate, evaluate
from pipeline.consolidate.staging import Readings
from pipeline.detect.tasks import fingerprint, nearest
from pipeline.errors import LeaseLost, PipelineError, TrainingFailed, VersionConflict
from pipeline.records import Claim, Request, Version
from pipeline.register.promotion import decide
from pipeline.register.sql import SqlRegistry

log = structlog.get_logger()

#: Pause between two looks at an empty list of requests, in seconds.
IDLE_S = 0.25
#: Segments behind each task's held-out readings, the newest.
HELD_OUT_SEGMENTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A claim with all it needs, resolved to artifacts: what the version will record."""

    parent: Version | None
    #: (task id, sha256 of the readings) to learn now.
    segments: tuple[tuple[int, str], ...]
    #: sha256 of the newest reservoir of each partition.
    reservoirs: tuple[str, ...]
    #: task id -> sha256 of the readings whose held-out part measures it.
    held_out: dict[int, tuple[str, ...]]
    seed: int


class Trainer:
    """Works requests off, one at a time.

    Parameters
    ----------
    owner
        Name of this process, for its leases.
    """

    def __init__(self, settings: Settings, registry: SqlRegistry, *, owner: str) -> None:
        self.settings = settings
        self.registry = registry
        self.owner = owner

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a consolidation under way is given back."""
        while not stop.is_set():
            if not self.work_once(stop):
                stop.wait(IDLE_S)

    def work_once(self, stop: threading.Event | None = None) -> bool:
        """Do one request, if there is one; whether there was.

        1. Claim it, with those that piled up behind it, under a lease with a fencing number.
        2. Name the tasks of its segments: new, or task k again.
        3. Leave it, if the champion serves a task that returned as well as before.
        4. Consolidate: a pure function of content-addressed inputs, the settings and a seed.
        5. Gate the candidate against the champion on every task's held-out readings.
        6. Register version, metrics, decision and promotion in one transaction.
        """
        run = self.settings.run
        claim = self.registry.claim(self.owner, run.lease_s, run.max_attempts)  # 1
        if claim is None:
            return False
        try:
            with self._lease(claim):
                self._work(claim, stop or threading.Event())
        except TrainingFailed as exc:
            self._give_up(claim, str(exc), retry=False)
        except VersionConflict as exc:
            self._give_up(claim, str(exc), retry=True)
        except LeaseLost as exc:
            log.warning("lease_lost", request=claim.id, reason=str(exc))
        except PipelineError as exc:
            self._give_up(claim, str(exc), retry=True)
        except Exception as exc:
            log.exception("consolidation_crashed", request=claim.id)
            self._give_up(claim, f"{type(exc).__name__}: {exc}", retry=True)
        return True

    def _work(self, claim: Claim, stop: threading.Event) -> None:
        work = self._resolve(claim)  # 2
        if (served := self._served(claim, work)) is not None:  # 3
            self.registry.finish(claim, served)
            log.info("request_done", request=claim.id, outcome=served)
            return
        inputs = self._inputs(work)
        candidate = consolidate(
            inputs, self.settings.score, self.settings.learn, progress=_until(stop)
        )  # 4
        decision = decide(candidate, work.parent, self.settings.gate)  # 5
        version = self.registry.register(  # 6
            claim,
            candidate,
            decision,
            parent=work.parent,
            inputs=msgspec.to_builtins(work) | {"settings": digest(self.settings)},
            settings=_recorded(self.settings),
            strategy=self.settings.learn.strategy,
            seed=work.seed,
            code_version=pipeline.__version__,
        )
        log.info(
            "version_registered",
            version=version.number,
            status=version.status,
            reason=claim.request.reason,
            decision=decision.reason,
            seconds=round(candidate.metrics.get("seconds", 0.0), 2),
        )

    def _resolve(self, claim: Claim) -> Work:
        """Everything the consolidation works on, as the order of requests in SQL gives it."""
        stream = claim.request.stream_id
        requests = [(claim.id, claim.request), *claim.folded]
        segments = tuple(
            (self._task(stream, number, request), request.inputs["segment"])
            for number, request in sorted(requests, key=lambda pair: pair[0])
            if "segment" in request.inputs
        )
        newest = max(number for number, _ in requests)
        held_out = self.registry.held_out(stream, newest, HELD_OUT_SEGMENTS)
        if not segments:  # by hand or by the clock: go over what every task showed last
            segments = tuple((task, shas[0]) for task, shas in sorted(held_out.items()))
        reservoirs = self.registry.latest_reservoirs(stream, newest)
        return Work(
            parent=self.registry.champion(stream),
            segments=_once(segments),
            reservoirs=tuple(sha for _, sha in sorted(reservoirs.items())),
            held_out={task: tuple(shas) for task, shas in sorted(held_out.items())},
            seed=_seed(self.settings.learn.seed, claim.id),
        )

    def _task(self, stream_id: int, request_id: int, request: Request) -> int:
        """Name the task of a request's segment, once: the id of a known task or of a new one."""
        known = self.registry.task_of(request_id)
        if known is not None:
            return known
        readings = Readings.from_bytes(self.registry.get(request.inputs["segment"]))
        print_ = fingerprint(readings.values)
        tasks = {task.id: task.fingerprint for task in self.registry.tasks(stream_id)}
        task, distance = nearest(print_, tasks)
        return self.registry.assign(request_id, print_, task, distance)

    def _served(self, claim: Claim, work: Work) -> str | None:
        """Why no training is needed, if it is not: every segment's task is known and served."""
        if work.parent is None or claim.request.reason not in ("bootstrap", "boundary"):
            return None
        expected = self.registry.skills(work.parent.id)
        tasks = {task for task, _ in work.segments}
        if not tasks <= expected.keys():
            return None
        weights = self.registry.get(work.parent.sha256)
        now, _ = evaluate(weights, self._contents(work.segments), self.settings.learn)
        worst = max(expected[task] - now.get(task, -100.0) for task in tasks)
        if worst > self.settings.gate.max_forgetting:
            return None
        figures = ", ".join(f"task {t}: {now[t]:.3f} now, {expected[t]:.3f} then" for t in tasks)
        return f"no training needed: version {work.parent.number} serves it ({figures})"

    def _contents(self, segments: Sequence[tuple[int, str]]) -> dict[int, tuple[bytes, ...]]:
        contents: dict[int, tuple[bytes, ...]] = {}
        for task, sha in segments:
            contents[task] = (*contents.get(task, ()), self.registry.get(sha))
        return contents

    def _inputs(self, work: Work) -> Inputs:
        get, parent = self.registry.get, work.parent
        return Inputs(
            parent=get(parent.sha256) if parent else None,
            ewc=get(parent.ewc_sha256) if parent and parent.ewc_sha256 else None,
            segments=tuple((task, get(sha)) for task, sha in work.segments),
            reservoirs=tuple(get(sha) for sha in work.reservoirs),
            held_out={task: tuple(map(get, shas)) for task, shas in work.held_out.items()},
            seed=work.seed,
        )

    def _give_up(self, claim: Claim, reason: str, *, retry: bool) -> None:
        log.warning("consolidation_failed", request=claim.id, reason=reason, retry=retry)
        try:
            self.registry.fail(claim, reason, retry=retry)
        except LeaseLost as exc:
            log.warning("lease_lost", request=claim.id, reason=str(exc))

    @contextmanager
    def _lease(self, claim: Claim) -> Iterator[None]:
        """Renew the claim from a thread of its own for as long as the work goes on."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(self.settings.run.lease_s / 3):
                try:
                    self.registry.renew(claim, self.settings.run.lease_s)
                except PipelineError as exc:  # found again, and reported, at registration
                    log.warning("lease_not_renewed", request=claim.id, reason=str(exc))

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _until(stop: threading.Event) -> Callable[[float], None]:
    """A progress callback that ends the training when the process is told to stop."""

    def progress(_: float) -> None:
        if stop.is_set():
            raise PipelineError("interrupted")

    return progress


def _once(segments: Sequence[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """Each artifact once: two requests may name the same bytes."""
    return tuple(dict.fromkeys(segments))


def _seed(seed: int, request_id: int) -> int:
    digest_ = hashlib.sha256(f"{seed}/{request_id}".encode()).digest()
    return int.from_bytes(digest_[:4], "big")


def _recorded(settings: Settings) -> dict[str, object]:
    """The settings that a version depends on."""
    return {
        "score": msgspec.to_builtins(settings.score),
        "learn": msgspec.to_builtins(settings.learn),
        "gate": msgspec.to_builtins(settings.gate),
    }
