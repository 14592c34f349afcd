"""SAC whose actor rests, what it climbs, and that neither changed what was there before."""

import copy
import hashlib

import pytest
import torch

from reverie.agents import SAC, SACConfig
from reverie.buffers import Transitions
from reverie.experiments import sac as script

OBS, ACT, BATCH, ALPHA = 5, 2, 32, 0.1


def make_batch(seed=0, n=BATCH):
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, n, OBS, generator=g)
    action = 2 * torch.rand(n, ACT, generator=g) - 1
    terminated, truncated = (torch.rand(2, n, generator=g) < 0.3).float()
    return Transitions(obs, action, torch.randn(n, generator=g), next_obs, terminated, truncated)


def make(seed=0, **settings):
    settings = {"hidden": (32, 32), "lr": 3e-3, **settings}
    return SAC(OBS, ACT, SACConfig(**settings), seed=seed)


def vector(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def snapshot(agent):
    """Copies of what an update moves."""
    out = {name: vector(getattr(agent, name)) for name in ("actor", "critic", "target")}
    return out | {"log_alpha": agent.log_alpha.detach().clone()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


# Four updates of the learner as it was before its actor could rest: the metrics, the sums of
# |parameter| of actor, critic and target, and the state of the generator of its draws.
BEFORE = {
    "default": (
        {},
        [1.601883, -1.487015, 0.260399, 1.409925, 0.991047, 149.081393, 295.599585, 294.071965],
        "e6f77416",
    ),
    "three": (
        {"critics": 3, "subset": 3, "learn_alpha": False, "alpha": 0.2},
        [1.259452, -0.301768, 0.101043, 1.411912, 0.2, 149.087398, 438.533861, 438.650978],
        "e6f77416",
    ),
    "redq": (
        {"critics": 5, "actor_value": "mean"},
        [4.910214, -1.65376, 0.137145, 1.49313, 0.991046, 148.789763, 727.939705, 726.562412],
        "a38a72ae",
    ),
    "droq": (
        {"critic_norm": "layer", "dropout": 0.1},
        [1.097526, -1.898105, 0.728485, 1.294952, 0.991041, 149.144434, 424.337072, 422.084883],
        "9b111034",
    ),
    "crossq": (
        {"critic_norm": "batch"},
        [1.884914, -1.353345, 0.285722, 1.409679, 0.991047, 149.063059, 437.748859, 437.748859],
        "e6f77416",
    ),
}


@pytest.mark.parametrize("name", BEFORE)
def test_an_actor_that_never_rests_learns_as_before(name):
    settings, numbers, drawn = BEFORE[name]
    agent = make(seed=3, **settings)
    for i in range(4):
        metrics = agent.update(make_batch(i))
    sizes = [
        sum(p.detach().double().abs().sum() for p in getattr(agent, part).parameters())
        for part in ("actor", "critic", "target")
    ]
    found = [float(x) for x in (*metrics.values(), *sizes)]
    assert list(metrics) == ["critic_loss", "actor_loss", "q", "entropy", "alpha"]
    assert found == pytest.approx(numbers, rel=2e-5)
    state = agent.generator.get_state().numpy().tobytes()
    assert hashlib.sha256(state).hexdigest()[:8] == drawn


@pytest.mark.parametrize("subset", [2, 3])
@pytest.mark.parametrize(("actor_value", "climbed"), [("min", 1.0), ("mean", 3.0)])
def test_the_actor_climbs_what_the_setting_says_whatever_the_target_takes(
    subset, actor_value, climbed
):
    agent = make(critics=3, subset=subset, actor_value=actor_value, alpha=ALPHA, lr=0.0)
    with torch.no_grad():  # critics that are constants; a learning rate of 0 leaves them so
        agent.critic.head.weight.zero_()
        agent.critic.head.bias.copy_(torch.tensor([[2.0], [1.0], [6.0]]))
    metrics = agent.update(make_batch())
    expected = -ALPHA * metrics["entropy"] - climbed
    torch.testing.assert_close(metrics["actor_loss"], expected, rtol=0, atol=1e-5)
    target = agent.target(make_batch().obs, make_batch().action)
    assert torch.equal(metrics["q"], torch.tensor(3.0)) and not (target == 3.0).all()


@pytest.mark.parametrize("extra", [{}, {"critic_norm": "batch"}, {"learn_alpha": False}])
def test_actor_and_temperature_move_at_every_third_update_and_critics_and_targets_at_all(extra):
    agent = make(policy_delay=3, **extra)
    always = {"critic", "target"}
    for update in range(1, 8):
        before = snapshot(agent)
        agent.update(make_batch(update))
        rest = {"actor", "log_alpha"} if extra.get("learn_alpha", True) else {"actor"}
        wanted = always | rest if update in (3, 6) else always
        assert moved(before, snapshot(agent)) == wanted, update
        steps = agent.actor_optimizer.state_dict()["state"]
        assert (int(steps[0]["step"]) if steps else 0) == update // 3


def test_targets_follow_by_tau_at_every_update():
    agent = make(policy_delay=20, tau=0.25)
    for update in range(3):
        target = vector(agent.target)
        agent.update(make_batch(update))
        expected = 0.75 * target + 0.25 * vector(agent.critic)
        torch.testing.assert_close(vector(agent.target), expected, rtol=0, atol=1e-6)


def test_the_metrics_of_a_resting_actor_are_those_of_its_last_step():
    agent = make(policy_delay=2, alpha=ALPHA)
    rows = [agent.update(make_batch(i)) for i in range(6)]
    assert all(value.isfinite() and value.shape == () for row in rows for value in row.values())
    assert rows[0]["actor_loss"] == rows[0]["entropy"] == 0  # it has taken none
    for name in ("actor_loss", "entropy"):
        values = [row[name].item() for row in rows[1:]]
        assert values[0] == values[1] != values[2] == values[3] != values[4]
    # Adam's first step: the entropy is over the target of -2 nats, so log alpha falls by lr
    alphas = torch.stack([row["alpha"] for row in rows[:4]])
    expected = ALPHA * torch.tensor([0.0, 0.0, -3e-3, -3e-3]).exp()
    torch.testing.assert_close(alphas, expected, rtol=0, atol=1e-6)
    assert rows[1]["entropy"] > -2 and len({row["critic_loss"].item() for row in rows}) == 6


def test_an_update_draws_and_runs_what_it_uses():
    agent = make(policy_delay=2, critics=4, critic_norm="layer", dropout=0.5)
    twin, calls = make().generator, []
    agent.actor.register_forward_pre_hook(lambda *_: calls.append(1))

    noise = agent.draw(BATCH)
    assert noise.action is None and noise.actor_masks == ()
    assert torch.equal(noise.next_action, torch.randn(BATCH, ACT, generator=twin))
    assert torch.equal(noise.subset, torch.randperm(4, generator=twin)[:2])
    masks = [agent.critic.masks(BATCH, twin) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(noise.target_masks, masks[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(noise.critic_masks, masks[1], strict=True))
    assert torch.equal(twin.get_state(), agent.generator.get_state())

    agent._update(make_batch(), noise)
    assert len(calls) == 1, "a resting actor acts in the target alone"
    noise = agent.draw(BATCH)
    both = torch.randn(2, BATCH, ACT, generator=twin)
    assert torch.equal(noise.action, both[0]) and torch.equal(noise.next_action, both[1])
    assert len(noise.actor_masks) == 2
    agent._update(make_batch(), noise)
    assert len(calls) == 3


@pytest.mark.parametrize("settings", [{}, {"critics": 4, "policy_delay": 2, "actor_value": "mean"}])
def test_an_update_reads_no_tensor(settings, monkeypatch):
    """Reading one would wait for a GPU at every update."""

    def read(*_):
        raise AssertionError("an update read a tensor")

    agent, batches = make(**settings), [make_batch(i) for i in range(2)]
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, read)
    with pytest.raises(AssertionError, match="read a tensor"):
        float(batches[0].reward[0])
    for batch in batches:
        agent.update(batch)


def test_the_presets_are_as_published():
    presets = {name: script.PRESETS[name] for name in ("default", "redq", "droq", "crossq")}
    rules = {n: (c.utd, c.agent.policy_delay, c.agent.actor_value) for n, c in presets.items()}
    assert rules == {
        "default": (1, 1, "min"),
        "redq": (20, 20, "mean"),
        "droq": (20, 20, "mean"),
        "crossq": (1, 3, "min"),
    }
    ensembles = {n: (c.agent.critics, c.agent.subset) for n, c in presets.items()}
    assert ensembles == {"default": (2, 2), "redq": (10, 2), "droq": (2, 2), "crossq": (2, 2)}


# --- states of the version before


def before(agent):
    """The agent's state as that version saved it."""
    state = copy.deepcopy(agent.state_dict())
    return {k: v for k, v in state.items() if k not in ("updates", "actor_loss", "entropy")}


@pytest.mark.parametrize("settings", [{}, {"critics": 4, "actor_value": "mean"}])
def test_a_state_from_before_the_delay_goes_on_bit_for_bit(settings):
    agent, other = make(seed=1, **settings), make(seed=2, **settings)
    for i in range(3):
        agent.update(make_batch(i))
    other.update(make_batch(9))
    other.load_state_dict(before(agent))
    assert other.actor_loss == other.entropy == other.updates == 0
    rows = [x.update(make_batch(5)) for x in (agent, other)]
    assert rows[0] == rows[1]
    assert not moved(snapshot(agent), snapshot(other))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"critics": 4}, r"actor_value='mean'.*--actor-value mean.*not with 'min'"),
        ({"actor_value": "mean"}, r"actor_value='min'.*--actor-value min.*not with 'mean'"),
        ({"policy_delay": 20}, r"policy_delay=1.*--policy-delay 1.*not with 20"),
    ],
)
def test_a_state_from_before_the_delay_is_not_continued_by_other_rules(settings, words):
    agent = make(seed=2, **settings)
    saved = before(make(seed=1, **settings))
    kept = snapshot(agent)
    with pytest.raises(ValueError, match=words):
        agent.load_state_dict(saved)
    assert not moved(kept, snapshot(agent))
