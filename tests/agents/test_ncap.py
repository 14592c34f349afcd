"""NCAP against its sheet (section 14): circuit, body, untrained behaviour, search."""

import functools
import math

import numpy as np
import pytest
import torch

from reverie.agents.candidates import population_returns
from reverie.agents.controllers import ControllerPolicy
from reverie.agents.ncap import Circuit, CircuitConfig, Network, SineCPG, joint_limit
from reverie.envs import make

LIMIT = joint_limit(6)
ANGLES = torch.tensor([0.3, -0.5, 1.2, -0.1, 0.4], dtype=torch.float64)


def circuit(**settings):
    return Circuit(5, LIMIT, CircuitConfig(**settings))


def torque(c, parameters, angles=ANGLES, step=0, **commands):
    step = torch.as_tensor(step, dtype=torch.float64)
    return c.activity(c.bind(parameters.double()), angles, step, **commands).torque


def weights(c, **values):
    """Parameters of a circuit with some weights named, the others at their start."""
    start = c.initial()
    for name, value in values.items():
        start[c.names.index(name)] = value
    return start


# -- 14.1 to 14.5: the circuit


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, 4),
        ({"speed": True, "turn": True}, 6),
        ({"sharing": "none"}, 30),
        ({"sharing": "sides"}, 15),
        ({"sharing": "none", "speed": True, "turn": True}, 42),
        ({"learn_period": True}, 5),
    ],
)
def test_parameter_counts(settings, size):
    assert circuit(**settings).size == size == len(circuit(**settings).initial())


def test_the_mlp_of_the_paper_has_its_parameters():
    assert Network(5, LIMIT, (256, 256)).size == 73_221
    assert Network(5, LIMIT, (64, 64)).size == 6_021
    assert Network(5, LIMIT, ()).size == 5 * 24 and Network(5, LIMIT, (), timed=True).size == 5 * 26


def test_golden_vectors():
    c = circuit()
    expected = torch.tensor([1, 0.2864789, -0.4774648, 1, -0.0954930], dtype=torch.float64)
    assert torch.allclose(torque(c, c.initial()), expected, atol=1e-7)
    expected[0] = -1
    assert torch.allclose(torque(c, c.initial(), step=30), expected, atol=1e-7)
    assert torch.equal(torque(c, c.initial(), step=60), torque(c, c.initial(), step=0))
    other = weights(c, prop=2, osc=0.3, ipsi=2, contra=-0.5)
    expected = torch.tensor([0.6, 1, -1, 1, -0.3819719], dtype=torch.float64)
    assert torch.allclose(torque(c, other, step=29), expected, atol=1e-7)


def test_each_segment_feels_the_joint_in_front_only():
    c = circuit()
    angles = torch.tensor([0.3, -0.5, 0.4, -0.1, 0.4], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda q: torque(c, c.initial(), q), angles)
    assert torch.equal(jacobian != 0, torch.diag(torch.ones(4, dtype=torch.bool), -1))


def test_the_circuit_is_antisymmetric():
    c = circuit()
    g = torch.Generator().manual_seed(0)
    for step in range(0, 60, 7):
        q = torch.randn(5, generator=g, dtype=torch.float64)
        there = torque(c, c.initial(), q, step)
        assert torch.allclose(torque(c, c.initial(), -q, step + 30), -there)


@pytest.mark.parametrize(
    "settings", [{}, {"sharing": "none"}, {"sharing": "sides"}, {"speed": True, "turn": True}]
)
def test_a_batch_equals_single_calls_and_worlds_do_not_share_a_clock(settings):
    c = circuit(**settings)
    g = torch.Generator().manual_seed(0)
    parameters = c.initial() + 0.2 * torch.randn(3, 1, c.size, generator=g)
    obs = torch.randn(3, 4, 24, generator=g)
    obs[..., -1] = 2 * torch.randint(0, 1000, (3, 4), generator=g) / 1000 - 1
    together = c.act(c.bind(parameters), obs)
    for i in range(3):
        for j in range(4):
            alone = c.act(c.bind(parameters[i, 0]), obs[i, j])
            assert torch.equal(together[i, j], alone)


def test_the_clock():
    c = circuit()
    w = c.bind(c.initial())
    for step in range(130):
        o = c.activity(w, torch.zeros(5), torch.tensor(float(step))).oscillator
        assert o.tolist() == ([1, 0] if step % 60 < 30 else [0, 1])
    obs = torch.zeros(3, 24)
    obs[:, -1] = torch.tensor([-1.0, 0.0, 1.0])
    assert c.step_of(obs).tolist() == [0, 500, 1000]
    odd = circuit(period=7)  # halves of 3 and 4 steps, by integer division
    on = [int(odd.activity(odd.bind(odd.initial()), torch.zeros(5), torch.tensor(float(t)))
              .oscillator[0]) for t in range(7)]  # fmt: skip
    assert on == [1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("constraint", ["clamp", "softplus"])
@pytest.mark.parametrize("sharing", ["all", "sides", "none"])
def test_signs_survive_an_optimizer(constraint, sharing):
    c = circuit(constraint=constraint, sharing=sharing)
    assert torch.allclose(c.effective(c.initial()), c.signs, atol=1e-6)
    p = torch.nn.Parameter(c.initial())
    g = torch.Generator().manual_seed(0)
    for optimizer in (torch.optim.SGD([p], lr=0.3), torch.optim.Adam([p], lr=0.1)):
        for _ in range(500):
            p.grad = torch.randn(c.size, generator=g)
            optimizer.step()
    assert (c.effective(p) * c.signs >= 0).all()
    free = circuit(constraint="none")
    assert (free.effective(p[:4] * 0 - 1) == -1).all()


def test_softplus_has_no_dead_zone_and_clamp_has():
    for constraint, dead in (("clamp", True), ("softplus", False)):
        c = circuit(constraint=constraint)
        p = weights(c, prop=-3.0).double().requires_grad_()
        torque(c, p).square().sum().backward()
        assert (p.grad[c.names.index("prop")] == 0) == dead


def test_contra_is_inert_without_turning_and_osc_above_one():
    c = circuit()
    p = c.initial().double().requires_grad_()
    torque(c, p).sum().backward()
    assert p.grad[c.names.index("contra")] == 0 and p.grad[c.names.index("ipsi")] != 0
    assert torch.equal(torque(c, weights(c, osc=1.0)), torque(c, weights(c, osc=2.5)))


def test_initialisations():
    g = torch.Generator().manual_seed(0)
    signed = torch.stack([circuit(init="uniform").initial(g) for _ in range(200)])
    assert ((signed * circuit().signs) >= 0).all() and 0.4 < signed.abs().mean() < 0.6
    free = circuit(init="uniform", constraint="none")
    unsigned = torch.stack([free.initial(g) for _ in range(200)])
    assert unsigned.abs().max() <= 1 and abs(unsigned.mean()) < 0.1
    signs = torch.stack([circuit(constraint="none").initial(g) for _ in range(200)])
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and abs(signs.mean()) < 0.2


def test_commands():
    c = circuit(speed=True, turn=True)
    rest = torque(c, c.initial(), speed=0.0)
    assert torch.equal(rest, torch.zeros(5, dtype=torch.float64))  # the brake holds every B unit
    free = circuit()
    assert torch.equal(torque(c, c.initial()), torque(free, free.initial()))
    right = torque(c, c.initial(), step=30, right=0.5)  # ventral half-cycle, dorsal command
    assert right[0] == -0.5 and torch.equal(right[1:], torque(c, c.initial(), step=30)[1:])
    left = torque(c, c.initial(), torch.zeros(5, dtype=torch.float64), step=0, left=0.5)
    assert left[0] == 0.5


# -- 14.6: the body


@pytest.mark.parametrize("links", [3, 6, 12])
def test_the_body_is_dm_controls(links):
    from dm_control.suite import swimmer

    import reverie.envs.gym.dm_control  # noqa: F401

    ours = make("reverie/Swim-v0", links=links).model
    theirs = swimmer.Physics.from_xml_string(*swimmer.get_model_and_assets(links)).model
    for name in (
        "body_mass", "body_inertia", "body_pos", "body_ipos", "jnt_range", "jnt_pos", "jnt_axis",
        "jnt_solref", "jnt_solimp", "jnt_limited", "jnt_stiffness", "dof_armature", "dof_damping",
        "actuator_gear", "actuator_ctrlrange", "qpos0",
    ):  # fmt: skip
        assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=0), name
    for name in ("timestep", "density", "viscosity", "integrator", "disableflags", "solver"):
        assert getattr(ours.opt, name) == getattr(theirs.opt, name), name


def test_dm_controls_swimmer_moves_the_same():
    from dm_control import suite

    import reverie.envs.gym.dm_control  # noqa: F401

    theirs = suite.load("swimmer", "swimmer6", task_kwargs={"random": 0})
    theirs.reset()
    ours = make("reverie/Swim-v0", 1, dtype=torch.float64)
    ours.reset()
    physics = theirs.physics
    ours.physics.reset(None, physics.data.qpos.copy()[None], physics.data.qvel.copy()[None])
    draw = np.random.default_rng(0)
    for _ in range(60):
        action = draw.uniform(-1, 1, 5)
        seen = theirs.step(action).observation
        obs = ours.advance(action[None])[0][0]
        assert np.allclose(obs[:5], seen["joints"], rtol=1e-9, atol=1e-12)
        assert np.allclose(obs[5:], seen["body_velocities"], rtol=1e-9, atol=1e-12)


def test_observation_reward_and_reset():
    env = make("reverie/Swim-v0", 400, seed=1)
    assert (env.obs_dim, env.act_dim, env.max_episode_steps) == (23, 5, 1000)
    assert make("reverie/Swim-v0", time_feature=True).obs_dim == 24
    assert env.p.frame_skip == 15 and math.isclose(env.fps, 1 / 0.03)
    qpos = env.physics.fields.qpos
    assert (np.abs(qpos[:, 3:]) <= LIMIT).all() and np.abs(qpos[:, 3:]).max() > 0.95 * LIMIT
    assert np.abs(qpos[:, 2]).max() > 3 and (env.physics.fields.qvel == 0).all()
    # The head looks along -y: push worlds at rest and straight along their own y.
    for speed, reward in ((0.0, 0.0), (-0.05, 0.5), (-0.2, 1.0), (0.1, 0.0)):
        straight = make("reverie/Swim-v0", 1, straight_start=True)
        straight.physics.fields.qvel[:, 1] = speed
        straight.physics.batch.forward()
        value, _ = straight.task.reward(np, None, straight.physics.fields, None, straight.p)
        assert np.isclose(value[0], reward), speed
    with pytest.raises(ValueError, match="3 to 64"):
        make("reverie/Swim-v0", links=2)


def test_the_time_feature_counts_steps_and_restarts():
    env = make("reverie/Swim-v0", 2, time_feature=True, max_episode_steps=7)
    seen = [env.reset()[0, -1]]
    for _ in range(9):
        r = env.step(torch.zeros(2, 5))
        seen.append(r.final_obs[0, -1])
    steps = [round((float(x) + 1) * 500) for x in seen]
    assert steps == [0, 1, 2, 3, 4, 5, 6, 7, 1, 2]


def test_contexts_of_the_swimmer_are_real():
    values = {"density": 1000.0, "viscosity": 0.01, "gear": 2.0, "mass": 1.5, "desired_speed": 0.2}
    for name, value in values.items():
        usual = {"density": 3000.0, "viscosity": 0.0, "desired_speed": 0.1}.get(name, 1.0)
        env = make("reverie/Swim-v0", 2, context={name: [usual, value]}, time_feature=True)
        plain = make("reverie/Swim-v0", 1, time_feature=True)
        c = circuit()
        w, obs, alone = c.bind(c.initial()), env.reset(), plain.reset()
        total, single = torch.zeros(2), torch.zeros(1)
        for _ in range(50):
            r, q = env.step(c.act(w, obs)), plain.step(c.act(w, alone))
            obs, alone, total, single = r.obs, q.obs, total + r.reward, single + q.reward
        assert torch.equal(total[:1], single) and total[1] != total[0], name


# -- 14.7 to 14.11: untrained behaviour


def swim(parameters=None, links=6, worlds=10, act=None, config=None, noise=0.0, **options):
    """Return the rewards [1000, worlds] of a circuit from the start states of seed 0."""
    c = Circuit(links - 1, joint_limit(links), config)
    env = make("reverie/Swim-v0", worlds, links=links, time_feature=True, **options)
    w = c.bind(c.initial() if parameters is None else parameters)
    g = torch.Generator().manual_seed(0)
    obs, rewards = env.reset(0), []
    for _ in range(1000):
        action = act(c, w, obs) if act else c.act(w, obs)
        if noise:
            action = (action + noise * torch.randn(action.shape, generator=g)).clamp(-1, 1)
        r = env.step(action)
        obs = r.obs
        rewards.append(r.reward)
    return torch.stack(rewards)


def test_untrained_from_the_straight_pose():
    rewards = swim(worlds=1, straight_start=True)[:, 0].double()
    assert abs(rewards.sum() - 794.9) < 8
    assert abs(rewards[:100].sum() - 59.7) < 3 and abs(rewards[:300].sum() - 217.7) < 3


@pytest.mark.parametrize(("links", "expected", "off"), [(6, 798, 12),
    pytest.param(4, 342, 20, marks=pytest.mark.slow),
    pytest.param(8, 903, 20, marks=pytest.mark.slow)])  # fmt: skip
def test_untrained_from_random_starts(links, expected, off):
    assert abs(swim(links=links).sum(0).mean() - expected) < off


@pytest.mark.slow
def test_untrained_with_noise():
    assert abs(swim(noise=0.1).sum(0).mean() - 783) < 15


@pytest.mark.slow
def test_lesions():
    whole = swim(worlds=4).sum(0).mean()
    deaf = swim(worlds=4, config=CircuitConfig(proprioception=False)).sum(0).mean()
    assert abs(deaf - 131) < 15
    assert swim(worlds=4, config=CircuitConfig(oscillator=False)).sum(0).mean() < 100
    still = swim(worlds=2, act=lambda c, w, obs: torch.zeros(2, 5), straight_start=True)
    assert (still == 0).all()
    c = circuit()
    assert abs(swim(weights(c, contra=0.0), worlds=4).sum(0).mean() - whole) < 1


def gait(worlds=2, **commands):
    """Return joint angles [1000, N], forward speed [1000] and heading of world 0."""
    c = Circuit(5, LIMIT, CircuitConfig(speed=True, turn=True))
    env = make("reverie/Swim-v0", worlds, time_feature=True)
    w, obs, angles, speed, heading = c.bind(c.initial()), env.reset(0), [], [], []
    for _ in range(1000):
        action = c.activity(w, obs[..., :5], c.step_of(obs), **commands).torque
        obs = env.step(action).final_obs
        angles.append(obs[0, :5].clone())
        speed.append(float(env.terms["forward_speed"].mean()))
        heading.append(float(env.physics.fields.qpos[0, 2]))
    return torch.stack(angles).double(), np.array(speed), np.array(heading)


def test_the_wave():
    angles, speed, _ = gait()
    settled = angles[300:900].numpy()
    spectrum = np.abs(np.fft.rfft(settled - settled.mean(0), axis=0))
    frequency = np.fft.rfftfreq(600, 0.03)[spectrum.argmax(0)]
    assert np.allclose(frequency, 1 / (60 * 0.03), atol=0.01)
    for i in range(4):  # lag of each joint behind the one in front, within a cycle
        lags = [np.dot(settled[: 600 - k, i], settled[k:, i + 1]) / (600 - k) for k in range(60)]
        assert 15 <= int(np.argmax(lags)) <= 18
    assert abs(speed[100:].mean() - 0.084) < 0.004


def test_the_speed_command_is_a_brake():
    speeds = [gait(speed=s)[1].mean() for s in (0.0, 0.5, 1.0)]
    assert (
        abs(speeds[0]) < 0.004 and abs(speeds[1] - 0.031) < 0.005 and abs(speeds[2] - 0.084) < 0.005
    )


def test_turning():
    rates = []
    for side in ("right", "left"):
        heading = gait(**{side: 0.5})[2]
        rates.append((heading[900] - heading[300]) / (600 * 0.03))
    assert rates[0] < 0 < rates[1]
    assert abs(rates[0] + 0.25) < 0.03 and abs(rates[1] - 0.25) < 0.03


def test_transfer_of_trained_weights():
    trained = weights(circuit(), prop=2.0, osc=0.31, ipsi=2.08)
    for links, least in ((8, 930), (14, 930), (4, 530)):
        assert swim(trained, links=links, worlds=2).sum(0).mean() >= least


# -- populations and controls


def test_a_population_is_its_candidates_one_by_one():
    c = circuit()
    g = torch.Generator().manual_seed(0)
    parameters = c.initial() + 0.3 * torch.randn(3, 4, generator=g)
    env = make("reverie/Swim-v0", 6, time_feature=True, streams=[0, 1] * 3, max_episode_steps=80)
    together = population_returns(env, c, parameters, seed=5)
    assert together.shape == (3, 2)
    single = make("reverie/Swim-v0", 2, time_feature=True, max_episode_steps=80)
    for i in range(3):
        alone = population_returns(single, c, parameters[i : i + 1], seed=5)[0]
        assert torch.equal(alone, together[i])
    with pytest.raises(ValueError, match="cannot be shared"):
        population_returns(env, c, parameters.repeat(2, 1)[:4], seed=0)


CONTROLLERS = [
    Circuit(5, LIMIT),
    Circuit(5, LIMIT, CircuitConfig(sharing="none", learn_period=True)),
    SineCPG(5),
    Network(5, LIMIT, ()),
    Network(5, LIMIT, (8, 8)),
    Network(5, LIMIT, (8,), timed=True),
]


@pytest.mark.parametrize("c", CONTROLLERS, ids=lambda c: f"{type(c).__name__}-{c.size}")
def test_controllers_keep_their_contract(c):
    g = torch.Generator().manual_seed(0)
    start = c.initial(torch.Generator().manual_seed(1))
    assert start.shape == (c.size,) and start.dtype == torch.float32
    assert torch.equal(start, c.initial(torch.Generator().manual_seed(1)))
    parameters = start + 0.3 * torch.randn(3, 1, c.size, generator=g)
    obs = torch.randn(3, 2, 24, generator=g)
    obs[..., -1] = 2 * torch.randint(0, 1000, (3, 2), generator=g) / 1000 - 1
    out = c.act(c.bind(parameters), obs)
    assert out.shape == (3, 2, 5) and out.abs().max() <= 1 and out.std() > 0
    for i in range(3):
        policy = ControllerPolicy(c, parameters[i, 0])
        action, state = policy.act(obs[i], policy.initial_state(2), explore=False)
        assert torch.allclose(action, out[i], atol=1e-6) and state == ()


def test_the_sine_wave_by_hand():
    c = SineCPG(3, period=40)
    obs = torch.zeros(1, 12)
    obs[0, -1] = 2 * 7 / 1000 - 1  # step 7
    parameters = torch.tensor([0.5, 2.0, 0.3, 0.4, 0.1])
    expected = [
        0.5 * (1 + 0.4 * (i / 2 - 0.5)) * math.sin(2 * 2 * math.pi * 7 / 40 - 0.3 * i) + 0.1
        for i in range(3)
    ]
    assert torch.allclose(c.act(c.bind(parameters), obs)[0], torch.tensor(expected), atol=1e-6)


def test_the_panel_and_the_waves(tmp_path):
    from reverie.agents import TD3, TD3Config
    from reverie.agents.ncap.actors import CircuitActor
    from reverie.experiments.looking.ncap_figures import DORSAL, Panel, circuit_of, waves

    c = circuit()
    policy = ControllerPolicy(c, c.initial())
    panel = Panel(policy, 240)
    obs = torch.zeros(24)
    obs[-1] = -1.0
    picture = panel(obs)
    assert picture.shape == (240, panel.width, 3) and picture.dtype == np.uint8
    column = int(panel.cell * 0.5)
    head = (picture[round(240 / 7), column], picture[round(6 * 240 / 7), column])
    assert tuple(head[0]) == DORSAL and tuple(head[1]) != tuple(head[0])  # the dorsal half-cycle
    obs[-1] = 2 * 30 / 1000 - 1
    assert tuple(panel(obs)[round(240 / 7), column]) == tuple(head[1])
    lags = waves(policy, make("reverie/Swim-v0", time_feature=True), tmp_path / "w.png")
    assert lags.shape == (4,) and (lags > 14).all() and (lags < 19).all()
    assert (tmp_path / "w.png").stat().st_size > 5000
    agent = TD3(24, 5, TD3Config(hidden=(8,)), actor=CircuitActor(c, None))
    assert circuit_of(agent)[0] is c and circuit_of(TD3(24, 5, TD3Config(hidden=(8,)))) is None
    with pytest.raises(ValueError, match="no circuit"):
        Panel(ControllerPolicy(SineCPG(5), SineCPG(5).initial()), 240)


@pytest.mark.slow
def test_trained_on_one_body_scored_off_nominal():
    from reverie.agents.ncap.transfer import off_nominal

    swim = functools.partial(make, "reverie/Swim-v0", time_feature=True)
    scores = off_nominal(lambda n: Circuit(n - 1, joint_limit(n)), circuit().initial(), 6, swim)
    families = ("density", "viscosity", "gear", "bodies")
    assert set(scores) == {*families, "off_nominal"}
    assert np.isclose(scores["off_nominal"], np.mean([scores[f] for f in families]))
    fixed = off_nominal(lambda n: Network(n - 1, joint_limit(n), ()), torch.zeros(120), 6, swim)
    assert set(fixed) == set(families[:3])  # its parameters fit one body


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_es_learns_to_swim(seed, tmp_path):
    from reverie.experiments import ncap
    from reverie.experiments.runs.config import RunOptions

    run = RunOptions(out=str(tmp_path), name="a", eval_every=160_000, tensorboard=False)
    result = ncap.main(ncap.Config(seed=seed, run=run))
    assert result.eval_return >= 870


# -- gradient learners


def small_ppo(**kwargs):
    from stable_baselines3 import PPO

    from reverie.agents.ncap.actors import CircuitPolicy
    from reverie.envs import to_sb3

    env = to_sb3(make("reverie/Swim-v0", 4, time_feature=True, max_episode_steps=50))
    settings = {"circuit": circuit(**kwargs), "hidden": (16,)}
    return PPO(
        CircuitPolicy, env, n_steps=32, batch_size=64, n_epochs=2, policy_kwargs=settings, seed=0,
        device="cpu", learning_rate=0.01,
    )  # fmt: skip


def test_the_circuit_is_a_policy_of_sb3s_ppo():
    model = small_ppo()
    obs = torch.randn(7, 24)
    obs[:, -1] = -1
    c = circuit()
    mean = model.policy.get_distribution(obs).mode()
    assert torch.equal(mean, c.act(c.bind(c.initial()), obs))
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    model.learn(256)
    after = model.policy.state_dict()
    moved = {k for k in after if not torch.equal(after[k], before[k])}
    assert "action_net.parameters_flat" in moved and "value_net.weight" in moved
    assert torch.allclose(after["log_std"], torch.tensor(0.1).log())  # fixed noise
    norm = model.policy.mlp_extractor.value_net[0]
    assert norm.count > 256 and not torch.equal(norm.mean, torch.zeros(24))
    assert (c.effective(after["action_net.parameters_flat"]) * c.signs >= 0).all()
    n_actor = sum(p.numel() for p in model.policy.action_net.parameters())
    assert n_actor == 4


def test_running_norm_equals_the_moments_of_what_it_saw():
    from reverie.agents.ncap.actors import RunningNorm

    norm = RunningNorm(3)
    data = 2 + 3 * torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    for part in data.chunk(4):
        norm(part)
    assert torch.allclose(norm.mean, data.mean(0), atol=1e-3)
    assert torch.allclose(norm.var, data.var(0, unbiased=False), rtol=1e-3)
    norm.eval()
    out, count = norm(data), norm.count.clone()
    assert out.std() < 1.1 and torch.equal(count, norm.count)
    flat = RunningNorm(1).eval()
    flat.var.fill_(0.0)
    assert torch.allclose(flat(torch.ones(1, 1)), torch.tensor(100.0))  # deviation at least 0.01


def test_td3_learns_the_circuits_weights_and_nothing_else():
    from reverie.agents import TD3, TD3Config
    from reverie.agents.ncap.actors import CircuitActor
    from reverie.buffers import Transitions

    c = circuit(constraint="softplus", sharing="none")
    agent = TD3(24, 5, TD3Config(hidden=(16, 16)), actor=CircuitActor(c, None))
    start = agent.actor.parameters_flat.detach().clone()
    g = torch.Generator().manual_seed(0)
    for _ in range(6):
        obs = torch.randn(32, 24, generator=g)
        obs[:, -1] = 2 * torch.randint(0, 1000, (32,), generator=g) / 1000 - 1
        action = 2 * torch.rand(32, 5, generator=g) - 1
        reward = torch.randn(32, generator=g)
        agent.update(Transitions(obs, action, reward, obs, torch.zeros(32), torch.zeros(32)))
    moved = agent.actor.parameters_flat.detach() != start
    live = [not n.startswith("contra") for n in c.names]  # inert without turning
    assert moved.tolist() == live
    with pytest.raises(ValueError, match="no gradient"):
        CircuitActor(circuit(learn_period=True), None)
