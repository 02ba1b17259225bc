"""Any single thing that is done to a chain behind its back is found, and told where."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from pipeline.register.chain import Entry, Head, follow
from pipeline.register.damage import diagnose
from pipeline.register.ledger import GENESIS, Facts

Chain = list[Entry]


def chain(length: int) -> Chain:
    """A chain as `append` makes it."""
    entries, before = [], GENESIS
    for number in range(1, length + 1):
        facts = Facts("ada", number * 10, f'{{"n":{number}}}', number, "tested", None)
        hash_ = facts.hash(before)
        entries.append(Entry(*astuple(facts), before, hash_))
        before = hash_
    return entries


def rehashed(entry: Entry) -> Entry:
    """The entry with the hash of what it says."""
    return entry._replace(hash=entry.hash_as(entry.id, entry.previous))


def told(entries: Chain) -> list[tuple[int, str]]:
    """What is found, by batches of two."""
    batches = [entries[n : n + 2] for n in range(0, len(entries), 2)]
    if follow(batches)[1]:
        return []
    return [(damage.id, damage.what) for damage in diagnose(batches)]


chains = st.integers(2, 12).map(chain)
values: dict[str, Any] = {
    "actor": "eve",
    "at": -1,
    "entry": "{}",
    "kind": "other",
    "stream_id": 7,
    "previous": "f" * 64,
    "hash": "e" * 64,
}


@given(chains)
def test_a_sound_chain_is_followed_to_its_head(entries: Chain) -> None:
    """Nothing is found, and its last entry and its first hash are told."""
    head, sound = follow([entries[:1], entries[1:]])
    last = entries[-1]
    assert sound
    assert head == Head(entries=last.id, hash=last.hash, at=last.at, database=entries[0].hash)
    assert told(entries) == []


@given(chains, st.data(), st.sampled_from(sorted(values)))
def test_any_single_edit_is_found(entries: Chain, data: st.DataObject, name: str) -> None:
    """Of any column of any entry."""
    at = data.draw(st.integers(0, len(entries) - 1))
    entries[at] = entries[at]._replace(**{name: values[name]})
    assert told(entries) == [(at + 1, "edited")]


@given(chains, st.data())
def test_an_edit_with_its_hash_made_anew_is_found(entries: Chain, data: st.DataObject) -> None:
    """Of any but the last, whose hash nothing in the ledger tells: that needs an anchor."""
    at = data.draw(st.integers(0, len(entries) - 2))
    entries[at] = rehashed(entries[at]._replace(actor="eve"))
    assert told(entries) == [(at + 1, "edited")]


@given(chains, st.data(), st.booleans())
def test_any_deletion_is_found(entries: Chain, data: st.DataObject, renumber: bool) -> None:
    """Of any run of entries but the tail, with the numbers closed up or not."""
    first = data.draw(st.integers(0, len(entries) - 2))
    end = data.draw(st.integers(first + 1, len(entries) - 1))
    rest = entries[:first] + entries[end:]
    if renumber:
        rest = [entry._replace(id=number) for number, entry in enumerate(rest, 1)]
    assert told(rest) == [(first + 1, "deleted")]


@given(chains, st.data(), st.booleans())
def test_any_insertion_is_found(entries: Chain, data: st.DataObject, hashed: bool) -> None:
    """At any place but behind the last, with a hash that fits or not; the rest moves on."""
    at = data.draw(st.integers(0, len(entries) - 1))
    forged = entries[at]._replace(actor="eve", hash="e" * 64)
    forged = rehashed(forged) if hashed else forged
    moved = [entry._replace(id=entry.id + 1) for entry in entries[at:]]
    assert told([*entries[:at], forged, *moved]) == [(at + 1, "inserted")]


@given(chains, st.data(), st.sampled_from(["number", "content"]))
def test_any_swap_is_found(entries: Chain, data: st.DataObject, what: str) -> None:
    """Of any two entries as a whole, or of what they say."""
    two = data.draw(st.sets(st.integers(0, len(entries) - 1), min_size=2, max_size=2))
    one, other = sorted(two)
    a, b = entries[one], entries[other]
    entries[one], entries[other] = b._replace(id=a.id), a._replace(id=b.id)
    if what == "content":
        entries[one] = entries[one]._replace(previous=a.previous, hash=a.hash)
        entries[other] = entries[other]._replace(previous=b.previous, hash=b.hash)
    assert told(entries) == [(one + 1, "swapped"), (other + 1, "swapped")]


@given(chains, st.data())
def test_entries_that_tell_only_their_hash_are_followed(
    entries: Chain, data: st.DataObject
) -> None:
    """Of another stream in an export: a link that is cut there is found all the same."""
    at = data.draw(st.integers(0, len(entries) - 2))
    entries[at] = Entry("", 0, "", at + 1, None, None, entries[at].previous, entries[at].hash)
    assert told(entries) == []
    entries[at] = entries[at]._replace(hash="e" * 64)
    assert told(entries) == [(at + 1, "edited")]
