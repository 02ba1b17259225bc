"""Elastic weight consolidation: what past tasks want of the weights, as one quadratic penalty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Params = dict[str, Tensor]

#: lambda with nothing kept, and how fast it falls with the rows that are kept.
BARE, ROWS = 100.0, 20.0


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where the weights were (theta*), and how much each matters (F)."""

    theta: Params
    fisher: Params

    @property
    def trace(self) -> float:
        """Sum of the Fisher diagonal."""
        return float(sum(f.sum() for f in self.fisher.values()))

    def tensors(self) -> Params:
        """By name, as `of` takes them."""
        parts = {"fisher": self.fisher, "theta": self.theta}
        return {f"{part}.{n}": t for part, held in parts.items() for n, t in held.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Anchor:
        """What `tensors` gave; ValueError if weights and Fisher diagonal do not match."""
        parts: dict[str, Params] = {"theta": {}, "fisher": {}}
        for name, tensor in tensors.items():
            part, _, parameter = name.partition(".")
            if part not in parts:
                raise ValueError(f"{name!r} is of no anchor")
            parts[part][parameter] = tensor
        shapes = [{n: t.shape for n, t in held.items()} for held in parts.values()]
        if shapes[0] != shapes[1]:
            raise ValueError("weights and Fisher diagonal do not match")
        return cls(theta=parts["theta"], fisher=parts["fisher"])


def running(old: Anchor | None, new: Anchor, gamma: float) -> Anchor:
    """Online EWC (Schwarz et al. 2018): F = gamma F_old + F_new, theta* = theta_new."""
    if old is None:
        return new
    fisher = {name: gamma * old.fisher[name] + f for name, f in new.fisher.items()}
    return Anchor(theta=new.theta, fisher=fisher)


def separate(old: Anchor | None, new: Anchor, gamma: float) -> Anchor:
    """EWC with an anchor for each task (Kirkpatrick et al. 2017), in the memory of one.

    sum_k F_k (theta - theta_k)^2 = F (theta - theta*)^2 + constant, with F = sum_k F_k and
    theta* = sum_k F_k theta_k / F; where F is 0, theta* does not matter. gamma: not used.
    """
    if old is None:
        return new
    theta, fisher = {}, {}
    for name, f in new.fisher.items():
        fisher[name] = total = old.fisher[name] + f
        weighted = old.fisher[name] * old.theta[name] + f * new.theta[name]
        theta[name] = torch.where(total > 0, weighted / total, new.theta[name])
    return Anchor(theta=theta, fisher=fisher)


def by_rule(kept: int, least: float) -> float:
    """lambda = max(least, BARE / (1 + kept / ROWS)): the less is replayed, the more it is worth.

    kept: rows that are replayed.

    >>> by_rule(0, 10.0), by_rule(20, 10.0), by_rule(2000, 10.0)
    (100.0, 50.0, 10.0)
    """
    return max(least, BARE / (1 + kept / ROWS))


def strength(wanted: float | str, rule: float) -> float:
    """lambda as the setting wants it: a number; or else the rule's."""
    return rule if isinstance(wanted, str) else wanted
