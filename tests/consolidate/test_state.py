"""What a version knows beside its weights, as bytes and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.consolidate.ewc import Anchor
from pipeline.consolidate.readings import Windows
from pipeline.consolidate.state import Answers, State, keys_of
from pipeline.errors import ArtifactCorrupt
from tests.model.making import forecaster


def windows(numbers: list[int]) -> Windows:
    values = np.array(numbers, dtype=np.float32)[:, None, None] * np.ones((1, 3, 2), np.float32)
    return Windows(values=values, offsets=np.zeros((len(numbers), 2), np.int64))


def test_known_windows_keep_their_answers_and_new_ones_get_one() -> None:
    """By content, in any order: 7 and 5 were answered before, 6 was not."""
    before = Answers(keys_of(windows([5, 6, 7])), torch.tensor([[50.0], [60.0], [70.0]]))
    known = Answers(before.keys[[0, 2]], before.outputs[[0, 2]])
    after = known.of(keys_of(windows([7, 6, 5])), torch.tensor([[1.0], [2.0], [3.0]]))
    assert after.outputs.tolist() == [[70.0], [2.0], [50.0]]
    assert known.outputs.tolist() == [[50.0], [70.0]]


def test_nothing_known_is_no_bytes() -> None:
    assert State().to_bytes() == b""
    assert State.from_bytes(b"") == State()


def test_answers_come_back_from_their_bytes() -> None:
    state = State(of_model(0), Answers(keys_of(windows([1, 2])), torch.rand(2, 3)))
    again = State.from_bytes(state.to_bytes())
    assert again.answers is not None
    assert state.answers is not None
    assert np.array_equal(again.answers.keys, state.answers.keys)
    assert torch.equal(again.answers.outputs, state.answers.outputs)
    assert again.to_bytes() == state.to_bytes()


def of_model(seed: int) -> Anchor:
    """An anchor of a forecaster's shapes."""
    generator = torch.Generator().manual_seed(seed)

    def like(p: Tensor) -> Tensor:
        return torch.rand(p.shape, generator=generator)

    model = forecaster(3, 2, 4)
    return Anchor(
        theta={n: like(p) for n, p in model.named_parameters()},
        fisher={n: like(p) for n, p in model.named_parameters()},
    )


def test_an_anchor_comes_back_from_its_bytes() -> None:
    """Bit for bit, names with dots in them too, and then the same bytes again."""
    before = of_model(0)
    after = State.from_bytes(State(before).to_bytes()).anchor
    assert after is not None
    for part in ("theta", "fisher"):
        one, other = getattr(before, part), getattr(after, part)
        assert one.keys() == other.keys()
        assert all(torch.equal(t, other[name]) for name, t in one.items())
    assert State(after).to_bytes() == State(before).to_bytes()


def test_equal_anchors_have_equal_bytes() -> None:
    """Whatever the order of their parameters and the layout in memory; other numbers, others."""
    one = of_model(0)
    turned = {
        n: t.T.contiguous().T if t.dim() == 2 else t for n, t in reversed(list(one.theta.items()))
    }
    other = Anchor(theta=turned, fisher=dict(reversed(list(one.fisher.items()))))
    assert State(one).to_bytes() == State(other).to_bytes()
    swapped = Anchor(theta=one.fisher, fisher=one.theta)
    for changed in (of_model(1), swapped):
        assert State(one).to_bytes() != State(changed).to_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        State(of_model(0)).to_bytes()[:-1],
        save({"model.layers.0.weight": torch.ones(2)}),
        save({"theta": torch.ones(2)}),
        save({"theta.a": torch.ones(2)}),
        save({"theta.a": torch.ones(2), "fisher.b": torch.ones(2)}),
        save({"theta.a": torch.ones(2), "fisher.a": torch.ones(3)}),
        save({"answers.keys": torch.ones(3, 2, dtype=torch.int64)}),
        save(
            {
                "answers.keys": torch.ones(3, 2, dtype=torch.int64),
                "answers.outputs": torch.ones(2, 1),
            }
        ),
    ],
    ids=[
        "garbage",
        "cut short",
        "weights",
        "no name",
        "no Fisher",
        "other names",
        "other shapes",
        "no answers",
        "other answers",
    ],
)
def test_anything_else_is_corrupt(content: bytes) -> None:
    """A version's weights in the place of its EWC state are refused, as is half a state."""
    with pytest.raises(ArtifactCorrupt):
        State.from_bytes(content)
