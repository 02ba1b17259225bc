"""A chain that does not hold in, what was done to which entry out.

An entry is known by its hash, which tells the number that it had and the hash that it followed,
wherever it stands now. A cut-off tail leaves a sound chain, and so does one that was made anew from
some entry to its end: both need an anchor kept elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from sqlalchemy import Connection

from pipeline.register.chain import Batches, Entry, sound, stored
from pipeline.register.ledger import GENESIS

#: Numbers that are tried, in all, to find out where entries stood before.
TRIALS = 1_000_000
#: Numbers that are always tried: the nearest.
NEAR = 3
#: Numbers beyond twice the entries there are that an entry may have had.
SPARE = 1000
#: Entries with another content that are compared with each other, at most.
PAIRS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What was done to an entry."""

    #: Its number; of a deleted one the one it had.
    id: int
    #: edited | deleted | inserted | swapped
    what: str
    detail: str
    #: As stored; None of a deleted one. at: microseconds since 1970 UTC.
    kind: str | None = None
    at: int | None = None


def first_of(conn: Connection) -> Damage | None:
    """The first damage of a database's ledger; None: it is sound."""
    return None if sound(conn) else diagnose(stored(conn))[0]


def diagnose(batches: Batches) -> list[Damage]:
    """What was done to a chain that does not hold, in order of the entries' numbers."""
    places = _places(batches)
    _number(places)
    found = [*_inserted(places), *_edited(places), *_swapped(places)]
    found += _deleted(places)
    if not found:
        found = _renumbered(places)
    return sorted(found, key=lambda damage: damage.id)


@dataclass(slots=True)
class _Place:
    """An entry where it stands."""

    id: int
    kind: str | None
    at: int
    previous: str
    hash: str
    #: The number that its hash was made with; None: with none that was tried.
    number: int | None
    #: What it says, if its hash does not fit it where it stands.
    odd: Entry | None = None
    #: Only what it says to follow was changed.
    unlinked: bool = False
    #: The number of what ought to stand here, of one whose own is not known; 0: nothing.
    meant: int = 0

    def damage(self, what: str, detail: str) -> Damage:
        return Damage(id=self.id, what=what, detail=detail, kind=self.kind, at=self.at)


def _places(batches: Batches) -> list[_Place]:
    """Every entry; those whose hash fits have their own number."""
    places: list[_Place] = []
    before = GENESIS
    for batch in batches:
        for entry in map(Entry._make, batch):
            if not (isinstance(entry.previous, str) and isinstance(entry.hash, str)):
                entry = entry._replace(previous=str(entry.previous), hash=str(entry.hash))
            fits = entry.hash_as(entry.id, entry.previous) == entry.hash
            place = _Place(
                entry.id,
                entry.kind,
                entry.at,
                entry.previous,
                entry.hash,
                entry.id if fits else None,
            )
            if not fits and entry.hash_as(entry.id, before) == entry.hash:
                place.number, place.unlinked, place.previous = entry.id, True, before
            elif not fits:
                place.odd = entry
            places.append(place)
            before = entry.hash
    return places


def _number(places: Sequence[_Place]) -> None:
    """Find the number that each odd entry's hash was made with: first its neighbour's shift."""
    taken = {place.number for place in places}
    free = [n for n in range(1, 2 * len(places) + SPARE) if n not in taken]
    shift, trials = 0, TRIALS
    for place in places:
        if place.odd is None:
            continue
        numbers = chain((place.id + shift, place.id - 1, place.id + 1), free)
        for number in islice(numbers, max(trials, NEAR)):
            trials -= 1
            if place.odd.hash_as(number, place.previous) == place.hash:
                place.number, shift = number, number - place.id
                break


def _inserted(places: Sequence[_Place]) -> Iterator[Damage]:
    """Of those with the same number all but the one that was followed; and those without one
    whose number another has."""
    same: dict[int, list[_Place]] = defaultdict(list)
    for place in places:
        if place.number is not None:
            same[place.number].append(place)
    followed = {place.previous for place in places}
    for number, twins in same.items():
        if len(twins) > 1:  # the last of all was followed by none: it is the one that was moved on
            genuine = max(twins, key=lambda twin: (twin.hash in followed, twin.id != number))
            same[number] = [genuine]
            for twin in twins:
                if twin is not genuine:
                    twin.number = None
    shift = 0
    for place in places:
        if place.number is not None:
            shift = place.number - place.id
        elif (other := same.get(place.id + shift)) is None:
            place.meant = place.id + shift
        else:
            yield place.damage("inserted", f"what was entry {place.id + shift} is {other[0].id}")


def _edited(places: Sequence[_Place]) -> Iterator[Damage]:
    """Those whose content, hash or predecessor is another, and those with a hash made anew."""
    unknown = [place for place in places if place.meant]
    partners = _partners(unknown[:PAIRS])
    for place in unknown:
        if (other := partners.get(place.id)) is not None:
            yield place.damage("swapped", f"its content is that of entry {other}")
        else:
            yield place.damage("edited", "its hash is not that of what it says")
    follows = {place.number: place.previous for place in places if place.number is not None}
    for place in places:
        if place.unlinked:
            yield place.damage("edited", "the hash that it follows is another")
        elif place.number is not None:
            after = follows.get(place.number + 1, place.hash)
            if after != place.hash:
                yield place.damage("edited", "its hash was made anew: the next follows another")
            elif place.number == 1 and place.previous != GENESIS:
                yield place.damage("edited", "it is the first, and follows another")


def _partners(unknown: Sequence[_Place]) -> dict[int, int]:
    """Places that have each other's content."""
    return {
        one.id: other.id
        for one in unknown
        for other in unknown
        if one is not other
        and one.odd is not None
        and other.odd is not None
        and other.odd.hash_as(one.id, one.previous) == one.hash
    }


def _swapped(places: Sequence[_Place]) -> Iterator[Damage]:
    """Those that stand where, by the order of the numbers, another would."""
    known = [place for place in places if place.number is not None]
    for place, meant in zip(known, sorted(known, key=lambda p: p.number or 0), strict=True):
        if place is not meant:
            yield place.damage("swapped", f"it was entry {place.number}")


def _deleted(places: Sequence[_Place]) -> list[Damage]:
    """Numbers that nothing has or ought to have, in ranges."""
    known = {place.number or place.meant for place in places}
    ranges: list[list[int]] = []
    for number in (n for n in range(1, max(known, default=0) + 1) if n not in known):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [
        Damage(
            id=first,
            what="deleted",
            detail="it is not there" if first == until else f"and all up to {until} are not there",
        )
        for first, until in ranges
    ]


def _renumbered(places: Sequence[_Place]) -> list[Damage]:
    """The first of each run of entries that have another number than they had."""
    found, shift = [], 0
    for place in places:
        now = (place.number or place.id) - place.id
        if now != shift:
            found.append(place.damage("edited", f"it was entry {place.number}"))
        shift = now
    return found
