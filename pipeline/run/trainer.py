"""Claim a request, consolidate, gate, register: the process that makes versions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import msgspec
import structlog

import pipeline
from pipeline.config import Settings, digest
from pipeline.consolidate.consolidation import WORST, Inputs, consolidate, evaluate, losses_of
from pipeline.consolidate.precision import advice
from pipeline.consolidate.transfer import error_matrix, transfer
from pipeline.errors import (
    Away,
    Interrupted,
    LeaseLost,
    PipelineError,
    TrainingFailed,
    VersionConflict,
)
from pipeline.records import Candidate, Claim, Decision, Version
from pipeline.register.promotion import decide
from pipeline.register.sql import SqlRegistry
from pipeline.run import work as works
from pipeline.run.environment import environment
from pipeline.run.work import Work

log = structlog.get_logger()

#: What becomes of a request by the clock before any segment is there.
TOO_EARLY = "nothing to learn yet: no segment is long enough"
#: Pause between two looks at an empty list of requests, in seconds.
IDLE_S = 0.25


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
        self._paused: set[str] = set()
        if (slower := advice(settings.learn.precision)) is not None:
            log.warning("precision_is_slower", reason=slower)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; a consolidation under way is given back.

        Raises
        ------
        Away
            The database is, for longer than it is waited for. A claim that is held goes to another
            trainer when its lease is over.
        """
        while not stop.is_set():
            if not self.work_once(stop):
                self._tell_pauses()
                stop.wait(IDLE_S)

    def work_once(self, stop: threading.Event | None = None) -> bool:
        """Do one request, if there is one; whether there was.

        One to evaluate trains nothing: the champion is measured again.

        1. Claim it, with those that piled up behind it, under a lease with a fencing number.
        2. Name the tasks of its segments: new, or task k again. What is not normal, or waits for
           a person's word, is not worked on.
        3. Leave it, if the champion serves a task that returned as well as before.
        4. Consolidate: a pure function of content-addressed inputs, the settings and a seed.
        5. Gate the candidate against the champion on every task's held-out readings.
        6. Register version, metrics, decision and promotion in one transaction.
        """
        run = self.settings.run
        rules = self.settings.retrain
        claim = self.registry.claim(self.owner, run.lease_s, run.max_attempts, rules)  # 1
        if claim is None:
            return False
        try:
            self._attempt(claim, stop or threading.Event())
        except LeaseLost as exc:
            log.warning("lease_lost", request=claim.id, reason=str(exc))
        except Away as exc:
            raise type(exc)(f"{exc}; request {claim.id} is free once its lease is over") from exc
        return True

    def _tell_pauses(self) -> None:
        """Say of a stream, once, that a person has paused it, and that it goes on."""
        paused = {stream.name: stream.pause for stream in self.registry.streams() if stream.pause}
        for name in sorted(paused.keys() - self._paused):
            log.info("stream_paused", stream=name, by=paused[name].actor, why=paused[name].reason)
        for name in sorted(self._paused - paused.keys()):
            log.info("stream_resumed", stream=name)
        self._paused = set(paused)

    def _attempt(self, claim: Claim, stop: threading.Event) -> None:
        """Work on a claim; whatever goes wrong is written beside its request."""
        try:
            with self._lease(claim) as lost:
                progress = _until(stop, lost)
                if claim.request.reason == "evaluate":
                    self._measure(claim, partial(progress, 0.0))
                else:
                    self._work(claim, progress)
        except (Away, LeaseLost):
            raise
        except (Interrupted, VersionConflict) as exc:  # neither is the request's fault
            log.info("request_released", request=claim.id, reason=str(exc))
            self.registry.release(claim, str(exc))
        except TrainingFailed as exc:
            self._fail(claim, str(exc), retry=False)
        except PipelineError as exc:
            self._fail(claim, str(exc), retry=True)
        except Exception as exc:
            log.exception("consolidation_crashed", request=claim.id)
            self._fail(claim, f"{type(exc).__name__}: {exc}", retry=True)

    def _fail(self, claim: Claim, reason: str, *, retry: bool) -> None:
        log.warning("consolidation_failed", request=claim.id, reason=reason, retry=retry)
        self.registry.fail(claim, reason, retry=retry)

    def _work(self, claim: Claim, progress: Callable[[float], None]) -> None:
        works.name(self.registry, claim, ask=self.settings.learn.new_tasks == "ask")  # 2
        admitted = self.registry.admit(claim)
        if admitted is None:
            log.info("request_not_learned", request=claim.id)
            return
        self._decide_on(
            admitted, works.resolve(self.registry, admitted, self.settings.learn), progress
        )

    def _decide_on(self, claim: Claim, work: Work, progress: Callable[[float], None]) -> None:
        """Steps 3 to 6: from here on all follows from the claim, what it works on, the settings."""
        alive = partial(progress, 0.0)
        if (served := self._served(claim, work, alive)) is not None:  # 3
            self.registry.finish(claim, served, as_of=work.as_of)
            log.info("request_done", request=claim.id, outcome=served)
            return
        if _too_early(claim, work):
            self.registry.finish(claim, TOO_EARLY)
            log.info("request_done", request=claim.id, outcome=TOO_EARLY)
            return
        works.check_labels(self.registry, claim, work, labelled=bool(self.settings.stream.label))
        inputs = works.inputs(self.registry, work)
        candidate = consolidate(  # 4
            inputs, self.settings.score, self.settings.learn, progress=progress
        )
        candidate = self._with_transfer(candidate, work.parent, inputs, alive)
        champion = work.parent
        if work.without is not None:
            champion = self.registry.champion(claim.request.stream_id)
            candidate = self._beside(champion, candidate, inputs, alive)
        decision = self._decide(claim, candidate, champion, work)  # 5
        version = self.registry.register(  # 6
            claim,
            candidate,
            decision,
            parent=work.parent,
            champion=champion,
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

    def _measure(self, claim: Claim, alive: Callable[[], None]) -> None:
        """The champion's skill on what is held out of every task by now."""
        champion = self.registry.champion(claim.request.stream_id)
        if champion is None:
            self.registry.finish(claim, "no champion yet")
            return
        held_out = works.resolve(self.registry, claim, self.settings.learn).held_out
        readings = {task: tuple(map(self.registry.get, shas)) for task, shas in held_out.items()}
        skills, sizes = self._evaluate(champion, readings, alive)
        self.registry.measured(claim, champion, skills, sizes)
        log.info("champion_measured", version=champion.number, tasks=len(skills))

    def _evaluate(
        self,
        version: Version,
        readings: Mapping[int, Sequence[bytes]],
        alive: Callable[[], None],
    ) -> tuple[dict[int, float], dict[int, int]]:
        """A version's skill on readings of each task, and the windows behind it."""
        weights = self.registry.get(version.sha256)
        return evaluate(weights, readings, self.settings.learn, self.settings.score.factory, alive)

    def _with_transfer(
        self,
        candidate: Candidate,
        parent: Version | None,
        inputs: Inputs,
        alive: Callable[[], None],
    ) -> Candidate:
        """The candidate with the figures of R so far: what was kept, lost and carried over."""
        if parent is None:
            return candidate
        rows = self.registry.rows_of_r(parent)
        rows.append((dict(candidate.skills), dict(candidate.parent_skills)))
        tasks = sorted({task for skills, _ in rows for task in skills})
        first = self.registry.first_version(parent.stream_id) or parent
        skills, _ = self._evaluate(first, inputs.held_out, alive)
        kept = transfer(*error_matrix(tasks, rows, skills))
        figures = {
            "forgetting": kept.forgetting,
            "backward_transfer": kept.backward,
            "forward_transfer": kept.forward,
        }
        known = {name: value for name, value in figures.items() if value is not None}
        return replace(candidate, metrics={**candidate.metrics, **known})

    def _beside(
        self,
        champion: Version | None,
        candidate: Candidate,
        inputs: Inputs,
        alive: Callable[[], None],
    ) -> Candidate:
        """The candidate beside the champion that it is to replace, which need not be its parent."""
        if champion is None:
            return candidate
        weights = self.registry.get(champion.sha256)
        learn, factory = self.settings.learn, self.settings.score.factory
        losses = losses_of(weights, inputs.held_out, learn, factory, alive)
        skills = {task: 1.0 - float(each.mean()) for task, each in losses.items()}
        return replace(candidate, parent_skills=skills, parent_losses=losses, new_tasks=())

    def _decide(
        self, claim: Claim, candidate: Candidate, champion: Version | None, work: Work
    ) -> Decision:
        """The gate's word; of a version without a task, which has no new one to gain on."""
        gate, numbers = self.settings.gate, self._numbers(claim)
        decision = decide(candidate, champion, gate, numbers, work.seed)
        if work.without is None:
            return decision
        return replace(decision, reason=f"without task {work.without}: {decision.reason}")

    def _served(self, claim: Claim, work: Work, alive: Callable[[], None]) -> str | None:
        """Why no training is needed, if it is not: every segment's task is known and served.

        Nobody but the stream itself may have asked: a person or a schedule wants a training.
        """
        asked = {claim.request.reason, *(request.reason for _, request in claim.folded)}
        if work.parent is None or not asked <= {"bootstrap", "boundary"}:
            return None
        expected = self.registry.skills(work.parent.id)
        tasks = {task for task, _ in work.segments}
        if not tasks <= expected.keys():
            return None
        readings = works.contents(self.registry, work.segments)
        now, _ = self._evaluate(work.parent, readings, alive)
        worst = max(expected[task] - now.get(task, WORST) for task in tasks)
        if worst > self.settings.gate.max_forgetting:
            return None
        numbers = self._numbers(claim)
        figures = ", ".join(
            f"task {numbers[task]}: {now[task]:.3f} now, {expected[task]:.3f} then"
            for task in sorted(tasks)
        )
        return f"no training needed: version {work.parent.number} serves it ({figures})"

    def _numbers(self, claim: Claim) -> dict[int, int]:
        """Task id -> its number in the stream, for sentences that people read."""
        return {task.id: task.number for task in self.registry.tasks(claim.request.stream_id)}

    @contextmanager
    def _lease(self, claim: Claim) -> Iterator[threading.Event]:
        """Renew the claim from a thread of its own for as long as the work goes on.

        What is given is set once somebody else has the claim: he trains the stream now.
        """
        done, lost = threading.Event(), threading.Event()

        def renew() -> None:
            while not lost.is_set() and not done.wait(self.settings.run.lease_s / 3):
                try:
                    self.registry.renew(claim, self.settings.run.lease_s)
                except LeaseLost:
                    lost.set()
                except PipelineError as exc:  # tried again; at registration it is found for sure
                    log.warning("lease_not_renewed", request=claim.id, reason=str(exc))

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join()


def _too_early(claim: Claim, work: Work) -> bool:
    """Whether only the clock asked, before there was anything to learn: nobody waits for that."""
    asked = {claim.request.reason, *(request.reason for _, request in claim.folded)}
    return not work.segments and asked == {"schedule"}


def _until(stop: threading.Event, lost: threading.Event) -> Callable[[float], None]:
    """A progress callback that ends the work as the process stops, or has lost its claim: called
    for each step and each task that is measured, it tells that the process is alive."""

    def progress(_: float) -> None:
        if lost.is_set():
            raise LeaseLost("somebody else has the request: training ended")
        if stop.is_set():
            raise Interrupted("interrupted")

    return progress


def _recorded(settings: Settings) -> dict[str, object]:
    """The settings that a version depends on, and what else its bytes do."""
    return {
        "environment": environment(),
        "score": msgspec.to_builtins(settings.score),
        "learn": msgspec.to_builtins(settings.learn),
        "gate": msgspec.to_builtins(settings.gate),
    }
