from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from msgspec.structs import replace as with_
from torch import Tensor, nn

from pipeline.config import Learn, Settings
from pipeline.consolidate.consolidation import Inputs, consolidate
from pipeline.consolidate.flat import Flat
from pipeline.consolidate.precision import Shadow, advice, passes_in
from pipeline.consolidate.training import Examples, Kept, Rehearsal, Task, Trained, train
from pipeline.model.networks import FORMS
from pipeline.model.objectives import Squared
from pipeline.model.weights import Weights
from pipeline.run import doctor
from tests.consolidate.regimes import LEARN, SCORE, figures, second
from tests.model.making import forecaster
from tests.model.modules import tied

WINDOW, CHANNELS = 3, 2
FULL = Learn(epochs=12, batch=16, lr=1e-2)
HALF = with_(FULL, precision="bfloat16")


def examples(n: int, seed: int) -> Examples:
    """The next reading is half of the last one, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, WINDOW, CHANNELS, generator=generator)
    return Examples(x=x, y=0.5 * x[:, -1] + 0.05 * torch.randn(n, CHANNELS, generator=generator))


def run(model: nn.Module, learn: Learn) -> Trained:
    """Train on new and old examples."""
    old = examples(60, seed=3)
    task = Task(
        model=model.train(),
        objective=Squared(),
        new=examples(160, seed=1),
        held_out=examples(60, seed=2),
        kept=None,
        anchor=None,
        learn=learn,
        generator=torch.Generator().manual_seed(4),
    )
    kept = Kept(examples=old, outputs=old.y)
    return train(task, rehearsals=[Rehearsal(kept=kept, targets=1.0, outputs=0.5)])


def flat(model: nn.Module) -> Tensor:
    """Every weight."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradients(model: nn.Module) -> Tensor:
    """Every weight's."""
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])


def test_the_gradient_is_that_of_the_weights_rounded() -> None:
    """Against autograd through a copy in bfloat16, bit for bit; and near that in float32."""
    model, part = forecaster(WINDOW, CHANNELS, 8, seed=1), examples(32, seed=1)
    exact = deepcopy(model)
    flat_ = Flat(model)
    passes = passes_in("bfloat16", model, flat_, 32)
    flat_.theta.data.mul_(1.5)  # as a step would: the shadow follows
    for p in exact.parameters():
        p.data.mul_(1.5)
    rounded = deepcopy(exact).to(torch.bfloat16)

    output = passes.forward(part.x)
    gradient = Squared().gradient(output, part.y)
    assert output.dtype == gradient.dtype == torch.float32
    passes.backward(gradient)
    again = rounded(part.x.bfloat16())
    again.backward(gradient.bfloat16())
    assert torch.equal(output, again.float())
    assert torch.equal(flat_.gradient, gradients(rounded))
    other = exact(part.x)
    other.backward(Squared().gradient(other.detach(), part.y))
    wanted = gradients(exact)
    assert float((flat_.gradient - wanted).norm() / wanted.norm()) < 0.03


def test_in_float32_there_is_no_shadow() -> None:
    model = forecaster(WINDOW, CHANNELS, 8, seed=1)
    assert not isinstance(passes_in("float32", model, Flat(model), 32), Shadow)


@pytest.mark.parametrize("form", FORMS)
def test_a_training_in_bfloat16_comes_nearly_as_far(form: str) -> None:
    """The held-out loss of each network falls nearly as in float32; the weights are not rounded."""
    models = [forecaster(WINDOW, CHANNELS, 16, seed=0)]
    if form != "mlp":
        torch.manual_seed(0)
        models = [FORMS[form](WINDOW, CHANNELS, 16, CHANNELS)]
    models.append(deepcopy(models[0]))
    full, half = (run(m, learn) for m, learn in zip(models, (FULL, HALF), strict=True))
    assert full.loss_after < 0.3 * full.loss_before
    assert half.loss_after < 1.3 * full.loss_after + 0.01
    weights = flat(models[1])
    assert weights.dtype == torch.float32
    assert not torch.equal(weights, weights.bfloat16().float())


def test_the_same_bytes_come_out_twice(full: Inputs) -> None:
    """And others than in float32; the model's own tensors are float32."""
    learn = with_(LEARN, epochs=2, precision="bfloat16")
    one, other = consolidate(full, SCORE, learn), consolidate(full, SCORE, learn)
    assert figures(one) == figures(other)
    assert one.weights != consolidate(full, SCORE, with_(learn, precision="float32")).weights
    tensors = Weights.from_bytes(one.weights).model.state_dict().values()
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


@pytest.fixture
def full() -> Inputs:
    """Inputs with everything to them."""
    return second()


def test_running_statistics_come_back_from_the_shadow() -> None:
    """Batch-norm's mean and variance are nearly those in float32; a count is exact."""
    torch.manual_seed(0)
    one = nn.Sequential(
        nn.Flatten(), nn.Linear(WINDOW * CHANNELS, 8), nn.BatchNorm1d(8), nn.Linear(8, CHANNELS)
    )
    other = deepcopy(one)
    run(one, with_(FULL, epochs=1))
    run(other, with_(HALF, epochs=1))
    assert one[2].num_batches_tracked == other[2].num_batches_tracked == 10
    assert other[2].running_var.dtype == torch.float32
    torch.testing.assert_close(one[2].running_var, other[2].running_var, rtol=0.05, atol=0.02)
    torch.testing.assert_close(one[2].running_mean, other[2].running_mean, rtol=0.05, atol=0.02)


def test_tied_weights_stay_tied() -> None:
    """In the shadow too: their gradient has all their uses."""
    model = tied(WINDOW, CHANNELS)
    trained = run(model, HALF)
    assert trained.loss_after < trained.loss_before
    assert model[4].weight is model[2].weight


@pytest.mark.parametrize("has", ["avx512_bf16", "amx_bf16", "bf16", None])
def test_it_is_told_where_it_is_slower(monkeypatch: pytest.MonkeyPatch, has: str | None) -> None:
    """One line, and no failure, where the processor cannot compute in it; float32 is fine."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True} if has else {})
    assert advice("float32") is None
    told = advice("bfloat16")
    assert (told is None) == (has is not None)
    found = list(doctor._precision(Settings(learn=HALF)))
    assert found == ([] if has else [("precision", True, told)])
    assert has or (told or "").startswith("learn.precision: bfloat16 is slower here")
