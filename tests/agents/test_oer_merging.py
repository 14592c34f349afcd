"""Merging of experts: the worked examples of the sheet, and the Fisher against autograd."""

import pytest
import torch

from reverie.agents.networks import DeterministicActor
from reverie.agents.oer.fisher import fisher_of, trunk_of
from reverie.agents.oer.merging import (
    MERGES,
    Merging,
    arithmetic,
    average,
    by_fisher,
    flat_of,
    ties,
)
from reverie.agents.oer.policy import ContinualPolicy

NONE = torch.zeros(2, 3)


def test_average_and_arithmetic_by_hand():
    experts, start = torch.tensor([[1.0, 4.0], [3.0, 0.0]]), torch.tensor([1.0, 1.0])
    assert average(experts, start, NONE).tolist() == [2, 2]
    # changes (0, 3) and (2, -1): 1 + 0.4 x (2, 2)
    torch.testing.assert_close(arithmetic(experts, start, NONE), torch.tensor([1.8, 1.8]))


def test_ties_on_the_sheets_example():
    """Two of three stay: (3, -1, 0) and (-2, -2, 0); signs of the sums +, -, none."""
    start = torch.tensor([10.0, 20.0, 30.0])
    changes = torch.tensor([[3.0, -1.0, 0.1], [-2.0, -2.0, 0.2]])
    got = ties(start + changes, start, NONE, keep=2 / 3)
    torch.testing.assert_close(got - start, torch.tensor([3.0, -1.5, 0.0]), atol=1e-5, rtol=0)
    half = ties(start + changes, start, NONE, keep=2 / 3, weight=0.5)
    torch.testing.assert_close(half - start, torch.tensor([1.5, -0.75, 0.0]), atol=1e-5, rtol=0)


def test_fisher_is_the_minimum_of_two_quadratics_and_the_average_where_all_is_alike():
    """1/2 x 3 (x - 1)^2 + 1/2 x 1 (x - 5)^2 is least at 2; without curvature the mean."""
    experts = torch.tensor([[1.0, 1.0], [5.0, 5.0]])
    got = by_fisher(experts, experts[0], torch.tensor([[3.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([2.0, 3.0]))
    alike = by_fisher(experts, experts[0], torch.full((2, 2), 7.0))
    torch.testing.assert_close(alike, average(experts, experts[0], NONE))


def expert(seed):
    torch.manual_seed(seed)
    return DeterministicActor(3, 2, (5, 4))


def test_the_fisher_is_the_mean_of_squared_jacobians():
    actor, obs = expert(0), torch.randn(7, 3)
    own = [p for layer in trunk_of(actor) for p in layer.parameters()]
    want = torch.zeros(sum(p.numel() for p in own))
    for row in obs:
        for k in range(2):
            grads = torch.autograd.grad(actor(row[None])[0, k], own)
            want += torch.cat([g.flatten() for g in grads]).square() / 7
    torch.testing.assert_close(fisher_of(actor, obs), want)


@pytest.mark.parametrize("how", MERGES)
def test_the_policy_has_the_merged_trunk_and_each_tasks_own_head(how):
    policy, merging = ContinualPolicy(3, 2, (5, 4), 2), Merging(how)
    experts, obs = [expert(0), expert(1)], torch.randn(9, 3)
    merging.add(0, experts[0], obs, policy)
    torch.testing.assert_close(policy(obs, 0, raw=False), experts[0](obs))  # one alone is itself
    merging.add(1, experts[1], obs, policy)
    fishers = [fisher_of(e, obs) for e in experts]
    rows = torch.stack([flat_of(trunk_of(e)) for e in experts])
    start = rows[0]
    want = MERGES[how](rows, start, torch.stack(fishers))
    got = torch.cat([p.detach().flatten() for p in policy.trunk.parameters()])
    torch.testing.assert_close(got, want)
    assert not torch.equal(got, start) and not torch.equal(got, rows[1])
    for task, own in enumerate(experts):
        assert torch.equal(policy.head_weight[task], own.net[-1].weight)
        assert torch.equal(policy.head_bias[task], own.net[-1].bias)
    assert merging.numbers == (4 if how == "fisher" else 2) * len(want)


@pytest.mark.parametrize("how", MERGES)
def test_experts_merged_one_by_one(how):
    """Three: by averages and sums as all at once; TIES as the merger of a merger and the third."""
    policy, merging = ContinualPolicy(3, 2, (5, 4), 3), Merging(how, True)
    experts, obs = [expert(seed) for seed in range(3)], torch.randn(9, 3)
    for task, one in enumerate(experts):
        merging.add(task, one, obs, policy)
    rows = torch.stack([flat_of(trunk_of(e)) for e in experts])
    want = MERGES[how](rows, rows[0], torch.stack([fisher_of(e, obs) for e in experts]))
    if how == "ties":
        first = ties(rows[:2], rows[0], NONE)
        want = ties(torch.stack([first, rows[2]]), rows[0], NONE)
    torch.testing.assert_close(flat_of(policy.trunk), want)
    # the first expert, and the Fishers' sum
    assert merging.numbers == (2 if how == "fisher" else 1) * len(want)
