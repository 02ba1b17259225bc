"""A seed and a number of blows in, the order of what is done out: a pure function of the two."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

#: Processes that are there all the time.
STREAMS, TRAINERS, SCHEDULERS = 3, 2, 2
MEMBERS = tuple(
    f"{role}-{number}"
    for role, count in (("stream", STREAMS), ("train", TRAINERS), ("schedule", SCHEDULERS))
    for number in range(1, count + 1)
)
#: A stream process that comes and goes.
GUEST = "stream-guest"
#: How often each kind comes in a deck; a deck is shuffled, so any run of decks has these shares.
DECK = {
    "broker": 5,
    "database": 5,
    "kill stream": 4,
    "kill train": 3,
    "kill schedule": 1,
    "stop stream": 1,
    "freeze stream": 2,
    "stop train": 1,
    "freeze train": 1,
    "freeze schedule": 1,
    "stop broker": 1,
    "stop database": 1,
    "cut broker": 1,
    "cut database": 1,
    "member": 2,
}
#: The group's session and every lease, in seconds.
SESSION_S = 3.0
#: Pause before a blow, at least and at most; how long who is stopped stands still; and who is
#: frozen, which outlasts the session and the leases. In seconds.
PAUSE_S, STOP_S, FREEZE_S = (0.2, 1.6), (0.3, 2.5), (SESSION_S + 1.0, SESSION_S + 4.0)


#: What is done to one process or server, and for how long.
LASTS = {"kill": (0.0, 0.0), "stop": STOP_S, "freeze": FREEZE_S}


@dataclass(frozen=True, slots=True)
class Blow:
    """One thing that is done, after a pause, to a process if it is done to one."""

    kind: str
    pause_s: float
    who: str = ""
    stop_s: float = 0.0

    def __str__(self) -> str:
        stopped = f" for {self.stop_s:.1f} s" if self.stop_s else ""
        return f"{self.kind} {self.who}".rstrip() + stopped


def plan(seed: int, blows: int) -> list[Blow]:
    """What is done, in order."""
    rng = random.Random(seed)
    made: list[Blow] = []
    guest = False
    for card in _cards(rng, blows):
        pause = rng.uniform(*PAUSE_S)
        kind, _, role = card.partition(" ")
        if card == "member":
            kind, guest = ("remove" if guest else "add"), not guest
            made.append(Blow(kind, pause, GUEST))
        elif kind in LASTS:
            who = rng.choice([n for n in MEMBERS if n.startswith(f"{role}-")] or [role])
            made.append(Blow(kind, pause, who, round(rng.uniform(*LASTS[kind]), 2)))
        else:
            made.append(Blow(card, pause))
    return made


def _cards(rng: random.Random, blows: int) -> Iterator[str]:
    deck: list[str] = []
    for _ in range(blows):
        if not deck:
            deck = [kind for kind, count in DECK.items() for _ in range(count)]
            rng.shuffle(deck)
        yield deck.pop()
