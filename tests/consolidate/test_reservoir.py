from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from pipeline.consolidate.readings import Windows
from pipeline.consolidate.reservoir import UNKNOWN, Reservoir, origins, union
from pipeline.errors import ArtifactCorrupt

WINDOW, CHANNELS = 2, 1


def items(first: int, end: int) -> Windows:
    """Windows that carry their number, in values and in offsets."""
    number = np.arange(first, end)
    values = np.broadcast_to(number[:, None, None], (len(number), WINDOW + 1, CHANNELS))
    return Windows(values=values.astype(np.float32), offsets=np.stack([number, number + 1], 1))


def numbers(windows: Windows | None) -> list[int]:
    """Which windows these are; their values and offsets must agree."""
    assert windows is not None
    assert np.array_equal(windows.values[:, 0, 0], windows.offsets[:, 0])
    assert np.array_equal(windows.offsets[:, 1], windows.offsets[:, 0] + 1)
    return [int(n) for n in windows.offsets[:, 0]]


def held(reservoir: Reservoir) -> list[int]:
    """Which windows it holds, place by place."""
    state = reservoir.state()
    return numbers(Windows(values=state["values"], offsets=state["offsets"]))


def filled(capacity: int, n: int, seed: int = 0, cuts: tuple[int, ...] = ()) -> Reservoir:
    """A reservoir that was offered n windows in pieces."""
    reservoir = Reservoir(capacity, WINDOW, CHANNELS, seed=(seed,))
    for first, end in pairwise((0, *cuts, n)):
        reservoir.offer(items(first, end))
    return reservoir


def algorithm_r(capacity: int, n: int, seed: int) -> list[int]:
    """Vitter 1985, one item at a time, with draws from the same generator."""
    rng = np.random.Generator(np.random.PCG64([seed]))
    places: list[int] = []
    for item in range(n):
        if len(places) < capacity:
            places.append(item)
        else:
            place = int(rng.integers(0, item + 1))
            if place < capacity:
                places[place] = item
    return places


@settings(deadline=None)
@given(
    capacity=st.integers(1, 12),
    n=st.integers(0, 60),
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_a_reservoir_is_algorithm_r_however_windows_are_offered(
    capacity: int, n: int, seed: int, cuts: list[int]
) -> None:
    """Place by place what a plain loop with one draw an item holds, for any pieces."""
    at = tuple(sorted(min(cut, n) for cut in cuts))
    reservoir = filled(capacity, n, seed, at)
    assert held(reservoir) == algorithm_r(capacity, n, seed)
    assert reservoir.seen == n
    assert len(reservoir) == min(capacity, n)


@pytest.mark.parametrize("cuts", [(), (1, 2, 3, 7, 19), (10,)])
def test_every_window_is_held_equally_often(cuts: tuple[int, ...]) -> None:
    """Capacity 5 of 20: each is held in a quarter of the runs, first and last alike."""
    runs, n, capacity = 4000, 20, 5
    times: Counter[int] = Counter()
    for seed in range(runs):
        times.update(held(filled(capacity, n, seed, cuts)))
    p = capacity / n
    five_sigma = 5 * math.sqrt(p * (1 - p) / runs)
    assert all(abs(times[item] / runs - p) < five_sigma for item in range(n))


def test_pairs_are_held_together_as_often_as_they_should() -> None:
    """A uniform subset, not only uniform items: any pair of 8 in 3 places with p = 3/8 * 2/7."""
    runs, n, capacity = 4000, 8, 3
    together: Counter[tuple[int, int]] = Counter()
    for seed in range(runs):
        found = sorted(held(filled(capacity, n, seed)))
        together.update((a, b) for i, a in enumerate(found) for b in found[i + 1 :])
    p = capacity / n * (capacity - 1) / (n - 1)
    five_sigma = 5 * math.sqrt(p * (1 - p) / runs)
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    assert all(abs(together[pair] / runs - p) < five_sigma for pair in pairs)


def test_until_it_is_full_everything_is_held_in_order() -> None:
    """Nothing is drawn while there is room."""
    assert held(filled(10, 10, cuts=(3, 4))) == list(range(10))


def test_what_is_held_does_not_change_with_the_callers_arrays() -> None:
    """The reservoir owns its tensors: a source that reuses a buffer cannot alter the past."""
    reservoir, windows = Reservoir(4, WINDOW, CHANNELS), items(0, 3)
    reservoir.offer(windows)
    windows.values[:] = -1
    assert held(reservoir) == [0, 1, 2]


def test_seeds_are_streams_of_chance_of_their_own() -> None:
    """Two partitions do not keep the same places; the same seed keeps the same."""
    assert held(filled(5, 200, seed=1)) == held(filled(5, 200, seed=1))
    assert held(filled(5, 200, seed=1)) != held(filled(5, 200, seed=2))


@settings(deadline=None)
@given(
    capacity=st.integers(1, 8),
    n=st.integers(0, 30),
    more=st.integers(0, 30),
    seed=st.integers(0, 1000),
)
def test_a_restored_reservoir_goes_on_as_if_nothing_had_happened(
    capacity: int, n: int, more: int, seed: int
) -> None:
    """Seen counter and generator travel along: the next draws are the same, bit for bit."""
    undisturbed = filled(capacity, n, seed)
    state = {name: array.copy() for name, array in undisturbed.state().items()}
    restored = Reservoir(capacity, WINDOW, CHANNELS)
    restored.restore(state)
    for reservoir in (undisturbed, restored):
        reservoir.offer(items(n, n + more))
    assert held(restored) == held(undisturbed) == algorithm_r(capacity, n + more, seed)
    one, other = undisturbed.state(), restored.state()
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in other.items()}


def test_a_restored_reservoir_leaves_the_state_it_came_from() -> None:
    """A checkpoint in memory can be gone back to twice."""
    state = {name: array.copy() for name, array in filled(3, 10).state().items()}
    before = {name: array.tobytes() for name, array in state.items()}
    restored = Reservoir(3, WINDOW, CHANNELS)
    restored.restore(state)
    restored.offer(items(10, 60))
    assert {name: array.tobytes() for name, array in state.items()} == before


def test_the_artifact_is_what_is_held_and_no_more() -> None:
    """Equal reservoirs, equal bytes: how far the generator is does not matter to a training."""
    one, other = filled(5, 5, seed=1), filled(5, 5, seed=2)
    assert one.to_bytes() == other.to_bytes()
    one.offer(items(5, 500))
    assert one.to_bytes() != other.to_bytes()


# Union ----------------------------------------------------------------------------------------


def partition(capacity: int, first: int, n: int, seed: int = 0) -> bytes:
    """The artifact of a reservoir that was offered windows first ... first + n."""
    reservoir = Reservoir(capacity, WINDOW, CHANNELS, seed=(seed,))
    reservoir.offer(items(first, first + n))
    return reservoir.to_bytes()


def test_a_union_of_nothing_is_none() -> None:
    """No partition, or only empty ones: there is nothing to replay."""
    assert union([], 10, seed=0) is None
    assert union([partition(5, 0, 0), partition(5, 0, 0)], 10, seed=0) is None


def test_a_union_with_room_for_everything_is_everything() -> None:
    """All that two partitions hold; an empty one adds nothing."""
    parts = [partition(10, 0, 4), partition(10, 0, 0), partition(10, 100, 6)]
    assert numbers(union(parts, 10, seed=0)) == [*range(4), *range(100, 106)]


def test_a_union_draws_in_proportion_to_what_each_has_seen() -> None:
    """3 000 and 1 000 seen, 80 held by each, 80 wanted: 60 and 20, each once, in order."""
    parts = [partition(80, 0, 3000), partition(80, 10_000, 1000)]
    found = numbers(union(parts, 80, seed=3))
    one, other = [n for n in found if n < 10_000], [n for n in found if n >= 10_000]
    assert (len(one), len(other)) == (60, 20)
    assert len(set(found)) == len(found)
    full = [held(filled(80, 3000))]
    assert set(one) <= set(full[0])


def test_every_window_of_every_partition_is_in_the_union_equally_often() -> None:
    """30 seen here, 10 there, 8 wanted: each of the 40 with p = 8/40, over draws and seeds."""
    runs, p = 4000, 8 / 40
    times: Counter[int] = Counter()
    for seed in range(runs):
        parts = [partition(8, 0, 30, seed=seed), partition(8, 100, 10, seed=seed + runs)]
        times.update(numbers(union(parts, 8, seed=seed)))
    five_sigma = 5 * math.sqrt(p * (1 - p) / runs)
    every = [*range(30), *range(100, 110)]
    assert sum(times.values()) == 8 * runs
    assert all(abs(times[item] / runs - p) < five_sigma for item in every)


def test_a_small_partition_is_never_left_out() -> None:
    """Its share of 20 is 20 * 5 / 2005 = .05: still one window, or its regime would be lost."""
    parts = [partition(20, 0, 2000), partition(20, 10_000, 5)]
    found = numbers(union(parts, 20, seed=0))
    assert sum(n >= 10_000 for n in found) == 1


@settings(deadline=None)
@given(
    seen=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    capacity=st.integers(1, 30),
    seed=st.integers(0, 100),
)
def test_a_union_is_held_by_its_partitions_and_not_larger_than_asked(
    seen: list[int], capacity: int, seed: int
) -> None:
    """No window twice, none from elsewhere; `capacity` give or take one for each partition."""
    parts = [partition(capacity, 1000 * i, n, seed=i) for i, n in enumerate(seen)]
    found = union(parts, capacity, seed)
    if not any(seen):
        assert found is None
        return
    every = set()
    for i, n in enumerate(seen):
        reservoir = Reservoir(capacity, WINDOW, CHANNELS, seed=(i,))
        reservoir.offer(items(1000 * i, 1000 * i + n))
        every |= set(held(reservoir))
    chosen = numbers(found)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= every
    if len(every) <= capacity:
        assert set(chosen) == every
    else:
        assert abs(len(chosen) - capacity) <= len(parts)


def test_a_union_is_a_function_of_its_inputs() -> None:
    """The same artifacts and seed draw the same windows; another seed draws others."""
    parts = [partition(50, 0, 500), partition(50, 1000, 500)]
    assert numbers(union(parts, 50, seed=1)) == numbers(union(parts, 50, seed=1))
    assert numbers(union(parts, 50, seed=1)) != numbers(union(parts, 50, seed=2))


# Origins --------------------------------------------------------------------------------------

NAMES = ("pump", "fan", "press")


def of_segments(capacity: int, lengths: list[int], seed: int = 0) -> Reservoir:
    """A reservoir that was offered segment after segment, of three series in turn; windows are
    numbered through."""
    reservoir, first = Reservoir(capacity, WINDOW, CHANNELS, seed=(seed,)), 0
    for segment, length in enumerate(lengths):
        reservoir.offer(items(first, first + length), slot=segment % 3, segment=segment)
        first += length
    return reservoir


def origin_of(number: int, lengths: list[int]) -> tuple[str, int]:
    """Of the window of a number: the segment in whose stretch it lies."""
    segment = int(np.searchsorted(np.cumsum(lengths), number, side="right"))
    return NAMES[segment % 3], segment


LENGTHS = st.lists(st.integers(0, 25), min_size=1, max_size=7)


@settings(deadline=None)
@given(capacity=st.integers(1, 20), lengths=LENGTHS, seed=st.integers(0, 50))
def test_every_window_knows_its_segment_wherever_it_was_put(
    capacity: int, lengths: list[int], seed: int
) -> None:
    """Which windows are held is Algorithm R's word; of each, series and segment are its own."""
    reservoir = of_segments(capacity, lengths, seed)
    expected = Counter(origin_of(n, lengths) for n in held(reservoir))
    assert held(reservoir) == algorithm_r(capacity, sum(lengths), seed)
    assert origins(reservoir.to_bytes(NAMES)) == expected
    again = Reservoir(capacity, WINDOW, CHANNELS)
    again.restore(reservoir.state())
    assert again.to_bytes(NAMES) == reservoir.to_bytes(NAMES)


@settings(deadline=None)
@given(
    capacity=st.integers(1, 20),
    lengths=LENGTHS,
    gone=st.sets(st.integers(0, 6)),
    seed=st.integers(0, 50),
)
def test_a_union_leaves_out_all_windows_of_a_segment_and_no_other(
    capacity: int, lengths: list[int], gone: set[int], seed: int
) -> None:
    """With room for everything that is held, what stays is what is held of the other segments."""
    reservoir = of_segments(capacity, lengths, seed)
    left_out = [(NAMES[segment % 3], segment) for segment in gone]
    stays = [n for n in held(reservoir) if origin_of(n, lengths)[1] not in gone]
    found = union([reservoir.to_bytes(NAMES)], capacity, seed, [left_out])
    assert (numbers(found) if found else []) == stays


def test_of_what_a_reservoir_has_seen_the_share_counts_that_is_left() -> None:
    """One has seen 4 000 and holds 80, half of them of a segment that is left out; the other has
    seen 2 000: 20 each of 40, where it would be two to one."""
    one = of_segments(80, [2000, 2000], seed=5)
    windows = origins(one.to_bytes(NAMES))
    assert 25 <= windows["pump", 0] <= 55, "about half"
    parts = [one.to_bytes(NAMES), partition(80, 10_000, 2000)]
    found = numbers(union(parts, 40, 3, [[("pump", 0)], []]))
    left = 4000 * windows["fan", 1] / 80
    assert sum(n < 10_000 for n in found) == int(40 * left / (left + 2000))
    assert not any(n < 2000 for n in found)


def test_a_name_that_holds_nothing_is_not_kept() -> None:
    """Equal contents, equal bytes: a series that only came by changes no artifact."""
    reservoir = of_segments(4, [3, 2])
    assert reservoir.to_bytes(NAMES) == reservoir.to_bytes(("pump", "fan", "other", "more"))


def test_windows_from_before_origins_were_kept_are_of_no_known_segment() -> None:
    """They can be left out all together, and stay otherwise."""
    arrays = load(of_segments(4, [3, 1]).to_bytes(NAMES))
    old = save({name: arrays[name] for name in ("values", "offsets", "seen")})
    assert origins(old) == Counter({UNKNOWN: 4})
    assert numbers(union([old], 4, 0)) == [0, 1, 2, 3]
    assert union([old], 4, 0, [[UNKNOWN]]) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", partition(5, 0, 5)[:-1], save({"values": np.zeros(3)})],
    ids=["empty", "garbage", "cut short", "parts missing"],
)
def test_anything_else_is_corrupt(content: bytes) -> None:
    """A damaged reservoir is not trained on."""
    with pytest.raises(ArtifactCorrupt):
        union([content], 5, seed=0)
    with pytest.raises(ArtifactCorrupt):
        origins(content)
