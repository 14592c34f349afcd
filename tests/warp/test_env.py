"""The Warp engine keeps the contracts that the native one keeps, on its CPU device."""

import logging
import subprocess
import sys
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch
from on_warp import DEVICE, SIZES, actions, equal, faults, on_warp, play, settings, step

from reverie.envs import BatchEnv, make, warp
from reverie.envs.check import check_env
from reverie.envs.tasks import TASKS

mjw = pytest.importorskip("mujoco_warp", reason="needs the extra: pip install 'reverie[gpu]'")

pytestmark = pytest.mark.xdist_group("warp")
SOME = ["HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5"]


def test_the_contract_suite_passes():
    task = "HalfCheetah-v5"
    rows = check_env(task, steps=50, backend="warp", device=DEVICE, warp=settings())
    assert isinstance(on_warp(task, 2), BatchEnv)
    assert not faults(rows), rows
    assert {r.name for r in rows} > {"determinism", "independence", "state restore"}


@pytest.mark.parametrize("task", SOME)
def test_the_same_seed_starts_the_same_episodes(task):
    warp_env, native = on_warp(task, 5, seed=3), make(task, 5, seed=3)
    acts = actions(native, 3)
    for _ in range(20):  # more episodes than one block of coming starts
        assert torch.allclose(warp_env.reset().cpu(), native.reset(), rtol=2e-6, atol=2e-6)
        step(warp_env, acts[0])
        native.step(acts[0])
    start = warp_env.physics.start
    f = native.physics.fields
    native.reset()
    warp_env.reset()
    rows = warp_env.physics.rows[:, start].cpu().numpy()
    exact = np.concatenate([f.qpos, f.qvel], axis=1).astype(np.float32)
    near = np.nextafter(np.abs(exact), np.float32(np.inf)) - np.abs(exact)
    assert (np.abs(rows - exact) <= near).all() and (rows == exact).mean() > 0.98
    assert torch.allclose(warp_env.reset(seed=3).cpu(), native.reset(seed=3), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("task", SOME)
def test_graphs_change_nothing(task):
    replayed = on_warp(task, seed=1, max_episode_steps=9)
    launched = on_warp(task, 4, settings(graphs=False), seed=1, max_episode_steps=9)
    acts = actions(replayed, 12)
    assert equal(play(replayed, acts), play(launched, acts))
    assert replayed.physics._step._graph is not None and launched.physics._step._graph is None
    assert "no graphs" in launched.notes["engine"]


@pytest.mark.parametrize("task", SOME)
def test_episodes_end_and_go_on_as_on_the_native_engine(task):
    """One episode's end and the next one's start, step by step, within what float32 can."""
    limit = {"seed": 2, "max_episode_steps": 2}
    warp_env, native = on_warp(task, 3, **limit), make(task, 3, **limit)
    for t, a in enumerate(actions(native, 8)):
        mine, theirs = step(warp_env, a), native.step(a)
        assert mine.truncated.tolist() == theirs.truncated.tolist() == [t % 2 == 1] * 3
        assert torch.equal(mine.terminated, theirs.terminated) and bool(mine.valid.all())
        near = torch.ones(3, dtype=torch.bool)
        if task == "Ant-v5":  # standing capsules: see test_agreement.py
            near = ~theirs.final_obs[:, 27:].any(1)
        for x, y in zip(mine[:2] + mine[4:5], theirs[:2] + theirs[4:5], strict=True):
            assert torch.allclose(x[near], y[near], rtol=1e-2, atol=1e-2), t
        ended = mine.terminated | mine.truncated
        assert torch.equal(mine.obs[~ended], mine.final_obs[~ended])


def test_the_first_observation_shows_no_contact_force():
    """As in gymnasium's Ant, whose cfrc_ext is zero until the first step."""
    env = on_warp("Ant-v5", 6, max_episode_steps=8)
    rows = play(env, actions(env, 8))
    first, last = rows[0][-1], rows[4][-1]
    assert bool(rows[3][-1].any()) and bool(last[:, 27:].any()) and not bool(first[:, 27:].any())


def test_a_bad_world_is_flagged_and_restarted_alone():
    for poison in (float("nan"), 1e12):
        clean, poisoned = on_warp("Hopper-v5", 4, seed=5), on_warp("Hopper-v5", 4, seed=5)
        acts = actions(clean, 8)
        play(clean, acts[:3]), play(poisoned, acts[:3])
        poisoned.physics.fields.qpos[2, 1] = poison
        expected, got = play(clean, acts[3:]), play(poisoned, acts[3:])
        others = [0, 1, 3]
        assert equal([x[:, others] for x in got], [x[:, others] for x in expected])
        obs, reward, terminated, truncated, final_obs, valid = (x[:, 2] for x in got)
        assert valid.tolist() == [False, True, True, True, True]
        assert truncated[0] and not terminated[0] and reward[0] == 0
        assert torch.isfinite(obs).all() and torch.isfinite(final_obs).all()
        fresh = make("Hopper-v5", 4, seed=5)
        fresh.reset()
        assert torch.allclose(obs[0], fresh.reset()[2], atol=1e-6)  # its second episode
        assert poisoned.bad_worlds == 1 and clean.bad_worlds == 0
        assert poisoned.health()["bad_worlds"] == 1


def test_no_nan_stays_in_a_world_that_is_restarted():
    """Worlds with contacts, poisoned in a joint: their constraint rows must not keep the NaN."""
    env = on_warp("Humanoid-v5", 8, seed=0)
    acts = actions(env, 40)
    play(env, acts[:25])
    env.physics.fields.qpos[:4, 23] = float("nan")
    valid = play(env, acts[25:])[5]
    assert valid[0].tolist() == [False] * 4 + [True] * 4
    assert valid[1:].all() and env.bad_worlds == 4


def test_a_nan_action_makes_a_bad_world():
    env = on_warp("HalfCheetah-v5", 3)
    action = torch.zeros(3, 6)
    action[1, 2] = float("nan")
    assert step(env, action).valid.tolist() == [True, False, True]
    assert step(env, torch.zeros(3, 6)).valid.all()


def test_a_state_moves_between_the_engines():
    for task in ("Walker2d-v5", "Reacher-v5"):
        native, warp_env = make(task, 3, seed=1), on_warp(task, 3, seed=8)
        acts = actions(native, 6)
        play(native, acts[:4])
        saved = native.state_dict()
        warp_env.load_state_dict(saved)
        assert torch.equal(warp_env.current_obs().cpu(), native.current_obs())
        ahead, there = native.step(acts[4]), step(warp_env, acts[4])
        assert torch.allclose(there.final_obs, ahead.final_obs, rtol=1e-3, atol=1e-3)
        assert torch.allclose(there.reward, ahead.reward, rtol=1e-3, atol=1e-3)
        back = make(task, 3, seed=99)
        back.load_state_dict(warp_env.state_dict())
        a, b = back.step(acts[5]), step(warp_env, acts[5])
        assert torch.allclose(a.final_obs, b.final_obs, rtol=1e-3, atol=1e-3)
        assert torch.allclose(
            back.reset(), warp_env.reset().cpu(), atol=1e-5
        )  # the same next episode
        size = mujoco.mj_stateSize(native.model, mujoco.mjtState.mjSTATE_INTEGRATION.value)
        assert warp_env.physics.get_state().shape == (3, size)


def test_what_is_written_to_a_captured_parameter_takes_effect():
    env, other = on_warp("HalfCheetah-v5", 2, seed=4), on_warp("HalfCheetah-v5", 2, seed=4)
    acts = actions(env, 10)
    assert equal(play(env, acts[:4]), play(other, acts[:4]))  # both have recorded their graphs
    gravity = env.physics.parameter("opt.gravity")
    assert torch.allclose(gravity.cpu(), torch.tensor([[0.0, 0.0, -9.81]]))
    gravity[:, 2] = -1.0
    assert not torch.allclose(play(env, acts[4:])[0], play(other, acts[4:])[0], atol=1e-2)


def test_contexts_are_rows_of_the_arrays():
    context = {"gravity": [9.81, 4.0], "mass:torso": [1.0, 1.5]}
    warp_env, native = (
        on_warp("Hopper-v5", 8, context=context),
        make("Hopper-v5", 8, context=context),
    )
    assert torch.equal(warp_env.context.cpu(), native.context)
    assert torch.equal(warp_env.context_id.cpu(), native.context_id)
    masses = warp_env.physics.parameter("body_mass")
    assert masses.shape[0] == 4 and len(masses[:, 1].unique()) == 2
    assert warp_env.physics.parameter("opt.gravity")[:, 2].tolist() == pytest.approx(
        [-9.81, -9.81, -4.0, -4.0]
    )
    assert warp_env.physics.parameter("geom_friction").shape[0] == 1  # what is equal is shared
    for a in actions(native, 5):
        mine, theirs = step(warp_env, a), native.step(a)
        assert torch.allclose(mine.final_obs, theirs.final_obs, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(mine.final_obs[0], mine.final_obs[2], atol=1e-2)


def test_rewards_of_each_world_use_its_own_parameters():
    context = {"timestep": [0.01, 0.005]}
    warp_env, native = (
        on_warp("HalfCheetah-v5", 4, context=context),
        make("HalfCheetah-v5", 4, context=context),
    )
    for a in actions(native, 3):
        assert torch.allclose(step(warp_env, a).reward, native.step(a).reward, atol=1e-3)


def test_buffers_are_sized_by_a_probe_and_an_overflow_is_counted():
    assert "njmax 96" in make("Humanoid-v5", 2, backend="warp", device=DEVICE).notes["engine"]
    env = on_warp("Ant-v5", 4, settings(njmax=2))
    play(env, actions(env, 12))
    seen = env.health()
    assert seen["overflow"] > 0 and env.health()["overflow"] >= 0
    flags = env.physics.flags()
    assert flags["overflow"].shape == (4,) and not flags["overflow"].any()  # read twice: cleared
    fine = on_warp("Ant-v5", 4)
    play(fine, actions(fine, 12))
    assert fine.health() == {"bad_worlds": 0, "overflow": 0, "solver_limit": 0}


def test_the_humanoids_switch_to_newton_and_say_so():
    for task in ("Humanoid-v5", "HumanoidStandup-v5"):
        env = on_warp(task, 1)
        assert "Newton instead of the model's PGS" in env.notes["solver"]
        assert env.model.opt.solver == mujoco.mjtSolver.mjSOL_PGS  # the task's own is untouched
    assert "solver" not in on_warp("Hopper-v5", 1).notes


def test_deterministic_can_be_asked_for():
    env = on_warp("Hopper-v5", 2, settings(deterministic=True))
    assert "deterministic" in env.notes["engine"] and int(env.physics.m.opt.deterministic) == 7
    reference = on_warp("Hopper-v5", 2)
    acts = actions(env, 5)
    got, expected = play(env, acts), play(reference, acts)
    assert torch.allclose(got[0], expected[0], rtol=1e-3, atol=1e-3)


def task_with(change):
    base = TASKS["Swimmer-v5"]

    def model(p):
        spec = mujoco.MjSpec.from_string(
            "<mujoco><worldbody><body><joint name='x' type='slide'/><geom size='.1' mass='1'/>"
            "</body></worldbody><actuator><motor joint='x' ctrlrange='-1 1' ctrllimited='true'/>"
            "</actuator></mujoco>"
        )
        change(spec)
        return spec.compile()

    return replace(base, id="Odd", model=model, before=None, fields=())


def test_what_stands_in_the_way_is_told_with_what_to_do(monkeypatch):
    from reverie.envs import make as module

    def pgs(spec):
        spec.option.solver = mujoco.mjtSolver.mjSOL_PGS

    monkeypatch.setitem(module.__globals__["TASKS"], "Odd", task_with(pgs))
    with pytest.raises(ValueError, match=r"Odd asks for the PGS solver.*newton_on_warp=True"):
        make("reverie/Odd", 1, backend="warp", device=DEVICE)

    def noslip(spec):
        spec.option.noslip_iterations = 3
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_DISCRETE

    monkeypatch.setitem(module.__globals__["TASKS"], "Odd", task_with(noslip))
    with pytest.raises(ValueError, match=r"Odd uses what MuJoCo Warp has not: noslip"):
        make("reverie/Odd", 1, backend="warp", device=DEVICE)
    with pytest.raises(ValueError, match="keeps one"):
        from reverie.envs.warp.models import put

        a, b = (task_with(lambda s: None).model(None) for _ in range(2))
        b.jnt_limited[0] = 1
        put([a, b], DEVICE)
    moved = task_with(lambda s: s.worldbody.add_geom(size=[0.1, 0, 0], pos=[1, 0, 0])).model(None)
    other = task_with(lambda s: s.worldbody.add_geom(size=[0.1, 0, 0], pos=[2, 0, 0])).model(None)
    with pytest.raises(ValueError, match="one place of the static geoms"):
        put([moved, other], DEVICE)


def test_a_missing_gpu_or_driver_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"torch shows no GPU here.*leave device out"):
        make("Hopper-v5", 1, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"torch shows 1 GPU"):
        make("Hopper-v5", 1, device="cuda:3")
    import warp as wp

    monkeypatch.setattr(wp, "is_cuda_available", lambda: False)
    with pytest.raises(ValueError, match="driver of release 580"):
        make("Hopper-v5", 1, device="cuda")
    with pytest.raises(ValueError, match="an NVIDIA GPU"):
        make("Hopper-v5", 1, device="mps")


def test_bad_input_is_told():
    env = on_warp("Hopper-v5", 2)
    with pytest.raises(ValueError, match=r"expected \(2, 3\) on"):
        env.step(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="rng"):
        make("Hopper-v5", 1, backend="warp", device=DEVICE, rng="gymnasium")
    with pytest.raises(ValueError, match="float32"):
        make("Hopper-v5", 1, backend="warp", device=DEVICE, dtype=torch.float64)
    with pytest.raises(ValueError, match="this is the CPU"):
        make("Hopper-v5", 1, warp=settings())
    with pytest.raises(ValueError, match="another package's"):
        make("CartPole-v1", 1, device="cuda")


def test_importing_the_environments_loads_no_warp():
    code = "import sys, reverie.envs.warp; print(sorted(m for m in sys.modules if 'warp' in m))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['reverie.envs.warp', 'reverie.envs.warp.settings']"


def test_the_kernels_are_kept_between_processes():
    """A second process compiles nothing of what the first one did."""
    step(on_warp("Hopper-v5", 2), torch.zeros(2, 3))
    code = (
        "import warp as wp; wp.init(); import torch; from reverie.envs import make, WarpSettings\n"
        f"env = make('Hopper-v5', 2, backend='warp', device={DEVICE!r}, "
        f"warp=WarpSettings(False, {settings().deterministic}, **{SIZES}))\n"
        "wp.config.log_level = wp.LOG_INFO; env.step(torch.zeros(2, 3, device=env.device))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.count("(cached)") > 20 and "(compiled)" not in run.stdout


def test_the_first_use_says_that_it_compiles(caplog):
    warp._announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="reverie"):
        on_warp("Hopper-v5", 1)
    assert "compiles its kernels" in caplog.text
