"""Losses, targets and their gradients against numbers worked out by hand."""

import pytest
import torch
from torch import tensor

from reverie.agents import cloning, losses
from reverie.buffers import Layout


def close(value, expected):
    torch.testing.assert_close(value, tensor(expected), rtol=0, atol=1e-6)


def test_td_target_stops_only_at_terminated():
    # obs, action, reward, next_obs, terminated, truncated
    rows = [[0, 0, 1, 0, 0, 0], [0, 0, 2, 0, 1, 0], [0, 0, -3, 0, 0, 1], [0, 0, 4, 0, 1, 1]]
    batch = Layout(1, 1).unpack(tensor(rows, dtype=torch.float32))
    next_value = tensor([10.0, 10.0, 20.0, 20.0])
    close(losses.td_target(batch.reward, next_value, batch.terminated, 0.9), [10.0, 2, 15, 4])


def test_soft_value_is_the_least_member_less_the_entropy_cost():
    next_q = tensor([[1.0, 5.0], [2.0, 3.0], [4.0, 4.0]])
    close(losses.soft_value(next_q, tensor([0.5, -1.0]), tensor(0.2)), [0.9, 3.2])


def test_critic_loss_averages_the_batch_and_sums_the_members():
    q = tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    loss = losses.critic_loss(q, tensor([0.0, 1.0]))  # (1 + 1) / 2 + (9 + 16) / 2
    close(loss, 13.5)
    loss.backward()
    close(q.grad, [[1.0, 1.0], [3.0, 4.0]])


def test_soft_actor_loss():
    q = tensor([1.0, 3.0], requires_grad=True)
    log_prob = tensor([2.0, -1.0], requires_grad=True)
    loss = losses.soft_actor_loss(q, log_prob, tensor(0.5))  # (1 - 1 - 0.5 - 3) / 2
    close(loss, -1.75)
    loss.backward()
    close(q.grad, [-0.5, -0.5])
    close(log_prob.grad, [0.25, 0.25])


@pytest.mark.parametrize(
    ("log_prob", "loss", "slope"),
    [
        ([1.0, -2.0], -0.75, 1.5),  # entropy 0.5, over the target of -1: alpha falls
        ([5.0, 1.0], 1.0, -2.0),
    ],
)
def test_temperature_loss(log_prob, loss, slope):
    log_alpha = tensor(-0.5, requires_grad=True)
    log_prob = tensor(log_prob, requires_grad=True)
    value = losses.temperature_loss(log_alpha, log_prob, -1.0)
    close(value, loss)
    value.backward()
    close(log_alpha.grad, slope)
    assert log_prob.grad is None


def test_deterministic_actor_loss():
    q = tensor([1.0, -4.0, 9.0], requires_grad=True)
    loss = losses.deterministic_actor_loss(q)
    close(loss, -2.0)
    loss.backward()
    close(q.grad, [-1 / 3] * 3)


def test_smoothed_action_clips_the_noise_and_then_the_action():
    action = tensor([[0.9, -0.9], [0.0, 0.2], [0.5, -1.0]])
    noise = tensor([[0.3, -0.3], [-0.9, 0.1], [0.2, 0.9]])
    expected = [[1.0, -1.0], [-0.25, 0.3], [0.7, -0.75]]
    close(losses.smoothed_action(action, noise, 0.25), expected)


def test_weighted_cloning_weighs_each_rows_squared_distance():
    action = tensor([[1.0, 2.0], [0.0, -1.0]])
    data = tensor([[0.0, 0.0], [2.0, -1.0]])
    loss = cloning.weighted_cloning_loss(action, data, tensor([2.0, 0.5]))
    close(loss, 6.0)  # (2 * (1 + 4) + 0.5 * 4) / 2
