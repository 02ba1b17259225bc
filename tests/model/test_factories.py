from __future__ import annotations

import pytest
import torch

from pipeline.config import Score, Settings, Stream
from pipeline.errors import SettingsError
from pipeline.model.kinds import Design, check, network
from pipeline.model.weights import Weights
from pipeline.run import doctor
from tests.model import modules
from tests.model.making import version

HERE = "tests.model.modules"


def test_a_factory_that_fits_makes_the_network() -> None:
    """It is called with window and channels, under the seed, and what it gives is used."""
    design = Design(window=5, channels=3, hidden=64, kind=f"{HERE}:persistence")
    one, again, other = (network(design, seed) for seed in (1, 1, 2))
    assert isinstance(one, modules.Persistence)
    assert torch.equal(one.gain, again.gain)
    assert not torch.equal(one.gain, other.gain)


@pytest.mark.parametrize("name", ["persistence", "tied"])
def test_its_weights_are_kept_with_its_name(name: str) -> None:
    """safetensors of its state, read back into what the same factory makes."""
    before = version(Design(window=4, channels=2, hidden=64, kind=f"{HERE}:{name}"), seed=3)
    after = Weights.from_bytes(before.to_bytes(), factory=f"{HERE}:{name}")
    x = torch.randn(6, 4, 2)
    assert after.design == before.design
    assert torch.equal(after.model(x), before.model(x))
    assert after.to_bytes() == before.to_bytes()


@pytest.mark.parametrize("configured", ["", f"{HERE}:tied"])
def test_a_version_of_another_factory_is_refused(configured: str) -> None:
    """Bytes from a database must not choose what is imported: only the settings do."""
    content = version(
        Design(window=4, channels=2, hidden=64, kind=f"{HERE}:persistence")
    ).to_bytes()
    with pytest.raises(SettingsError, match=f"the version is of {HERE}:persistence") as caught:
        Weights.from_bytes(content, factory=configured)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere.at_all:make", "No module named 'nowhere'"),
        (f"{HERE}:absent", "no attribute 'absent'"),
        (f"{HERE}:raising", "KeyError: 'no GPU"),
        (f"{HERE}:not_a_module", "returns a function, not a torch.nn.Module"),
        (f"{HERE}:narrow", r"gives \(3, 1\) where \(3, 3\) is wanted"),
        (f"{HERE}:fixed", r"of \(3, 16, 3\)"),
        (f"{HERE}:empty", "no parameter to train"),
        (f"{HERE}:double", "not float32"),
        (f"{HERE}:pair", "gives a tuple, not a tensor"),
    ],
)
def test_one_that_does_not_fit_stops_the_start_with_one_line(name: str, reason: str) -> None:
    """Which setting, which factory and why, before anything is polled or claimed."""
    with pytest.raises(SettingsError, match=reason) as caught:
        check(Score(model=name), channels=3)
    assert str(caught.value).startswith(f"score.model: {name}: ")
    assert "\n" not in str(caught.value)


def test_doctor_says_so_before_the_first_reading_tells_the_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two channels are tried where none are named: a module for any number fits."""
    monkeypatch.setattr(doctor, "load", lambda _: Settings(score=Score(model=f"{HERE}:narrow")))
    (answer,) = doctor.examine(None)
    assert not answer["ok"]
    assert "(3, 1) where (3, 2) is wanted" in answer["message"]


def test_a_target_beyond_the_channels_stops_the_start() -> None:
    """Named channels are known at the start; others are checked at the first consolidation."""
    score = Score(model="regressor", target=2)
    with pytest.raises(SettingsError, match=r"score\.target = 2: there are 2 channels"):
        check(score, len(Stream(channels=("a", "b")).channels))
    check(score, 3)
    check(score, 0)
    with pytest.raises(SettingsError, match=r"a regressor needs score\.target"):
        check(Score(model="regressor"), 3)
