"""A plan in, blows out: each falls on work in progress, and none waits for all to be up again."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from kafka import KafkaProducer

from tests.chaos.cast import TOPIC, Cast
from tests.chaos.log import Message, messages
from tests.chaos.member import Member
from tests.chaos.plan import Blow

#: Rounds of the log that are fed before the first blow, and before each.
HEAD, EACH = 260, 24
#: The first checkpoint has to be there within, and who is to leave has to be one of the group; in
#: seconds.
START_S = 300.0
#: A blow waits for checkpoints to have moved since the one before, but no longer, in seconds.
MOVED_S = 5.0
#: Who is told to leave may leave with code 1 and one of these for the last line: a server is away,
#: or the machine too busy for the time that it has.
EXCUSES = ("tidemark: Kafka at ", "tidemark: database ", "tidemark: ended ")
#: A person asks for something after so many blows.
ASKED_EVERY = 10
#: How often stopped and ended processes are looked after, in seconds.
TICK_S = 0.05


class Feeder(threading.Thread):
    """Sends the log, round by round, as far as it is told."""

    def __init__(self, address: str, seed: int, series: int) -> None:
        super().__init__(name="feeder", daemon=True)
        self.address = address
        self.log = messages(seed, series)
        self.wanted = threading.Semaphore(0)
        self.failure: BaseException | None = None
        self.rounds = 0
        self._over = False

    def feed(self, rounds: int) -> None:
        self.rounds += rounds
        for _ in range(rounds):
            self.wanted.release()

    def finish(self) -> None:
        """Wait until all of it is acknowledged."""
        self._over = True
        self.wanted.release()
        self.join()
        if self.failure is not None:
            raise self.failure

    def run(self) -> None:
        try:
            self._run()
        except BaseException as exc:
            self.failure = exc

    def _run(self) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.address,
            acks="all",
            linger_ms=5,
            max_block_ms=120_000,
            reconnect_backoff_max_ms=500,
            delivery_timeout_ms=600_000,
        )
        done = 0
        while True:
            self.wanted.acquire()
            if self._over and done == self.rounds:
                break
            self._send(producer, next(self.log))
            done += 1
        producer.flush(120)
        producer.close()

    def _send(self, producer: KafkaProducer, some: Sequence[Message]) -> None:
        for each in some:
            future = producer.send(TOPIC, key=each.key, value=each.value, partition=each.partition)
            future.add_errback(self._failed)

    def _failed(self, exc: BaseException) -> None:
        self.failure = exc


class Killer:
    """Deals the blows, and starts again what they end.

    Parameters
    ----------
    reached
        Sum of the offsets that the checkpoints stand at; None while nobody can tell.
    ask
        What a person does now and then; the answer.
    say
        Told what is done.
    """

    def __init__(
        self,
        cast: Cast,
        feeder: Feeder,
        reached: Callable[[], int | None],
        ask: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        self.cast = cast
        self.feeder = feeder
        self.reached = reached
        self.ask = ask
        self.say = say
        self.done: Counter[str] = Counter()
        #: What people were told who asked for something.
        self.asked: Counter[str] = Counter()
        #: Processes that ended though nobody had told them to.
        self.ended: list[str] = []
        #: Blows before which no checkpoint had moved since the blow before.
        self.idle = 0
        self._asking: threading.Thread | None = None

    def run(self, plan: Sequence[Blow]) -> None:
        """Deal the blows in their order."""
        self.feeder.feed(HEAD)
        if not self.wait_until(lambda: (self.reached() or 0) > 0, START_S):
            self.ended.append(f"no checkpoint within {START_S:.0f} s of the start")
        for number, blow in enumerate(plan, 1):
            self.feeder.feed(EACH)
            before = self.reached()
            self.look_after(blow.pause_s)
            moved = self.wait_until(lambda b=before: (self.reached() or 0) > (b or 0), MOVED_S)
            self.idle += not moved
            self.say(f"{number}/{len(plan)} {blow}")
            self._deal(blow)
            if number % ASKED_EVERY == 0:
                self._have_asked()
            self.done[f"{blow.kind} {blow.who.partition('-')[0]}".strip()] += 1

    def finish(self) -> None:
        """Wait for what was asked for, and for the log to be sent."""
        if self._asking is not None:
            self._asking.join()
        self.feeder.finish()

    def _have_asked(self) -> None:
        """In a thread: who is asked may wait for a process that only we wake."""
        if self._asking is not None and self._asking.is_alive():
            self.asked["nothing: the one before still waits"] += 1
            return

        def ask() -> None:
            self.asked[self.ask()] += 1

        self._asking = threading.Thread(target=ask, name="asking", daemon=True)
        self._asking.start()

    def wait_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Look after the processes until `condition`; whether it came within the limit."""
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.look_after(4 * TICK_S)
        return True

    def look_after(self, seconds: float) -> None:
        """Wake who has been stopped long enough, start again who has ended."""
        until = time.monotonic() + seconds
        while True:
            for member in self.cast.members.values():
                if member.wakes is not None and time.monotonic() >= member.wakes:
                    member.resume()
                if (said := member.ended()) is not None:
                    self.say(said)
                    self.ended.append(said)
                    member.start()
            if self.feeder.failure is not None:
                raise self.feeder.failure
            if time.monotonic() >= until:
                return
            time.sleep(TICK_S)

    def _deal(self, blow: Blow) -> None:
        cast = self.cast
        if blow.kind in ("broker", "database") or blow.who in ("broker", "database"):
            cast.settle()
        if blow.kind == "broker":
            cast.broker.kill()
            cast.come_back(cast.broker.start)
        elif blow.kind == "database":
            cast.postgres.shut_down_at_once()
            cast.come_back(cast.postgres.start)
        elif blow.who == "broker":
            cast.hold([cast.broker.pid], blow.stop_s)
        elif blow.who == "database":
            cast.hold(cast.postgres.pids(), blow.stop_s)
        elif blow.kind == "cut broker":
            cast.to_broker.cut()
        elif blow.kind == "cut database":
            cast.to_database.cut()
        else:
            self._hurt(cast.members[blow.who], blow)

    def _hurt(self, member: Member, blow: Blow) -> None:
        if blow.kind == "kill":
            member.kill()
            member.start()
        elif blow.kind in ("stop", "freeze"):
            member.pause(blow.stop_s)
        elif blow.kind == "add":
            member.start()
        else:
            self.wait_until(lambda: member.has_said("stream_started"), START_S)
            member.terminate()
            self.ended += left_badly(member)


def left_badly(member: Member) -> list[str]:
    """How a process left that was told to, unless with code 0 or a good excuse."""
    code, said = member.leave(), member.last_line()
    if code == 0 or (code == 1 and said.startswith(EXCUSES)):
        return []
    return [f"{member.name} left with code {code} after SIGTERM: {said}"]
