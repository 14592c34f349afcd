"""What the loops write down, against numbers worked out by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from known import Counter, Known, a_begun_run, a_run, options, rows

from reverie.agents import evaluate
from reverie.agents.acting import Returns
from reverie.agents.playing import EVAL_SEED, SEED_STRIDE, collect
from reverie.buffers import Layout, ReplayBuffer, Transitions
from reverie.experiments import load_run
from reverie.experiments.loops import offpolicy
from reverie.experiments.loops.session import Session
from reverie.experiments.runs import stopping
from reverie.experiments.runs.stopping import Interrupted

# -- evaluation


def test_the_first_episodes_of_every_world_count_from_the_seeds_start():
    """Worlds of 1 and 3 steps, then 2; then 4: n (w + 1) + n (n - 1) / 2 if memory is reset."""
    env, policy = Known([[1, 3], [4, 2]]), Counter()
    judged = evaluate(policy, env, episodes=2, seed=7)
    assert judged.returns.tolist() == [[1, 3 + 3], [8 + 6, 4 + 1]]
    assert judged.lengths.tolist() == [[1, 3], [4, 2]]
    assert env.seeds == [7] and set(policy.explored) == {False}
    assert env.stepped == 6  # until the slowest world has played its two
    row = judged.row()
    assert row["return"] == judged.mean == 26 / 4 and row["length"] == 10 / 4
    assert row["std"] == pytest.approx((sum((x - 6.5) ** 2 for x in (1, 6, 14, 5)) / 4) ** 0.5)


def test_a_bad_worlds_episode_counts_with_what_it_has():
    """World 1 goes bad at its third step: two steps of 2 and 1 / 64 of memory paid by 64."""
    judged = evaluate(Counter(), Known([[4], [4]], bad=[(2, 1)]))
    assert judged.returns.tolist() == [[4 + 6], [2 * 2 + 1]]
    assert judged.lengths.tolist() == [[4], [2]]


def test_running_returns_start_again_where_an_episode_ended():
    returns = Returns(2)

    def add(reward, terminated, truncated, valid=(True, True)):
        x = torch.zeros(2, 1)
        flags = torch.tensor([terminated, truncated]).float()
        return returns.add(
            Transitions(x, x, torch.tensor(reward), x, flags[0], flags[1]), torch.tensor(valid)
        )

    assert add([1.0, 10.0], [0, 0], [0, 0]) == []
    assert add([2.0, 20.0], [1, 0], [0, 0]) == [(0, 3.0, 2)]
    assert add([4.0, 0.0], [0, 0], [0, 1], (True, False)) == [(1, 30.0, 2)]
    state = returns.state_dict()
    assert add([8.0, 40.0], [1, 1], [0, 0]) == [(0, 12.0, 2), (1, 40.0, 1)]
    returns.load_state_dict(state)
    assert add([8.0, 40.0], [1, 1], [0, 0]) == [(0, 12.0, 2), (1, 40.0, 1)]


def test_collected_rows_are_explored_and_say_their_world():
    policy = Counter()
    batch = collect(Known([[1, 3], [4, 2]]), policy, 7)
    assert batch.extra["world"].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert (batch.action[:, 0] * 64).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert batch.next_obs[:, 2].tolist() == [1, 1, 1, 2, 2, 3, 3] and set(policy.explored) == {True}


# -- off-policy


def off_policy(config, env, judge=None, agent=None, resume=False):
    """Train with a buffer that holds everything; return the agent, the buffer, the path."""
    agent = agent or Counter()
    buffer = ReplayBuffer(Layout(3, 1), 200 * env.num_envs, env.num_envs)
    s = Session(agent, env, judge or Known([[2], [2]]), buffer, buffer, config.seed)
    with a_run(config, resume) as run:
        judged = offpolicy.train(run, s, config)
    return agent, buffer, run.path, judged


def test_an_off_policy_run_logs_the_episodes_since_the_last_row(tmp_path):
    """World 0 plays 2 steps for 3, world 1 plays 3 for 9, if memory begins with the episode.

    A row after 4 vector steps each: two of 3 and one of 9; the same; two of 3 and two of 9.
    """
    config = options(tmp_path, log=8, judge=12)
    _, buffer, path, judged = off_policy(config, Known([[2], [3]]))
    logged = rows(path, "train")
    assert [row["step"] for row in logged] == [8, 16, 24]
    assert [row["return"] for row in logged] == [5, 5, 6]
    assert [row["length"] for row in logged] == pytest.approx([7 / 3, 7 / 3, 2.5])
    assert {row["bad_worlds"] for row in logged} == {0}
    stored = buffer.layout.unpack(buffer.export_rows(0, 12)["rows"])
    assert torch.equal(stored.action[..., 0] * 64, stored.obs[..., 2])  # k at the k-th step
    assert torch.equal(stored.next_obs[..., 2], stored.obs[..., 2] + 1)  # the true successor
    final = rows(path, "eval")
    # two episodes of 2 steps: 2 + 1 and 4 + 1
    assert [(row["step"], row["return"], row["std"], row["length"]) for row in final] == [
        (12, 4, 1, 2), (24, 4, 1, 2),
    ]  # fmt: skip
    assert judged.mean == 4


def test_a_run_is_judged_from_the_same_starts_without_exploring(tmp_path):
    judge, agent = Known([[2], [2]]), Counter()
    off_policy(options(tmp_path, judge=8), Known([[2], [3]]), judge, agent)
    assert judge.seeds == [EVAL_SEED] * 3
    assert agent.explored.count(False) == 6 and agent.explored.count(True) == 12


def test_a_row_without_an_ended_episode_has_no_return(tmp_path):
    _, _, path, _ = off_policy(options(tmp_path, log=4, steps=12), Known([[5], [6]]))
    assert ["return" in row for row in rows(path, "train")] == [False, False, True]


def test_a_bad_row_is_counted_nowhere_but_as_bad(tmp_path):
    """World 1 goes bad at its second step: its episode ends with one step and 2."""
    env = Known([[4], [4]], bad=[(1, 1)])
    _, buffer, path, _ = off_policy(options(tmp_path, log=4, steps=7), env)
    logged = rows(path, "train")
    assert [row["step"] for row in logged] == [5, 7] and logged[0]["bad_worlds"] == 1
    assert len(buffer) == 7 and env.stepped == 4
    # (1, 2) of world 1, then four steps of world 0 for 4 + 6
    assert logged[0]["return"] == 2 and logged[0]["length"] == 1
    assert logged[1]["return"] == 10 and logged[1]["length"] == 4
    assert [a[1] * 64 for a in env.actions] == [0, 1, 0, 1]  # its memory begins again


def test_updates_are_owed_from_the_first_transition_after_the_warm_up(tmp_path):
    """Worlds of two: steps 2, 4, 6, ...; from 7 on half an update each: 0.5 at 8, 1.5 at 10."""
    at, config = [], options(tmp_path, steps=16, learning_starts=7, utd=0.5, batch_size=5)

    class Told(Counter):
        def update(self, batch, **more):
            at.append(env.stepped * 2)
            return super().update(batch)

    env = Known([[2], [3]])
    agent, _, path, _ = off_policy(config, env, agent=Told())
    assert at == [10, 12, 14, 16]
    assert all(len(batch.reward) == 5 for batch in agent.batches)
    assert rows(path, "train")[-1]["updates"] == 4  # of the last update
    assert agent.explored.count(True) == 4  # vector steps 5 to 8; before, uniform actions
    warm = torch.tensor(env.actions[:4])
    assert len(warm.unique()) == 8 and warm.abs().max() <= 1


@pytest.mark.parametrize("restores", [True, False])
def test_a_resumed_run_goes_on_with_its_memory_or_says_that_it_restarts(restores, tmp_path):
    """Stopped at vector step 4, in the middle of episodes of 3 and 7."""
    config = options(tmp_path, steps=8, seed=3, save=8)
    off_policy(config, Known([[3], [7]], restores=restores))
    env = Known([[3], [7]], restores=restores)
    longer = options(tmp_path, steps=14, seed=3, save=8)
    _, buffer, path, _ = off_policy(longer, env, resume=True)
    played = [[a[w] * 64 for a in env.actions] for w in range(2)]
    episodes = buffer.export_rows(0, 7)["episode"].tolist()
    final = rows(path, "train")[-1]
    if restores:
        assert env.seeds == [] and played == [[1, 2, 0], [4, 5, 6]]
        assert [e[1] for e in episodes] == [0] * 7
        assert final["return"] == (6 + 35) / 2 and final["length"] == 5
    else:
        assert env.seeds == [3 * SEED_STRIDE + 8] and played == [[0, 1, 2]] * 2
        assert [e[1] for e in episodes] == [0, 0, 0, 0, 1, 1, 1]
        assert final["return"] == 6 and final["length"] == 3  # world 0's, from the restart on


def test_updates_that_are_owed_are_owed_after_a_resume_too(tmp_path):
    """Three quarters of an update for each transition: 1.5 for a step of two worlds.

    One and two by turns; the half that is owed at 6, where the run is cut, is done at 8.
    """
    at = []

    class Told(Counter):
        def update(self, batch, **more):
            at.append(env.stepped * 2)
            return super().update(batch)

    for steps in (6, 12):
        env = Known([[3], [7]])
        config = options(tmp_path, steps=steps, utd=0.75, save=6)
        agent, _, path, _ = off_policy(config, env, agent=Told(), resume=steps > 6)
    assert at == [2, 4, 4, 6, 8, 8, 10, 12, 12] and agent.updates == 9
    assert rows(path, "train")[-1]["updates"] == 9


class Asks(Known):
    """A judge in which, at its first step, somebody asks the run to stop."""

    def __init__(self, lengths, ask):
        super().__init__(lengths)
        self.ask = ask

    def step(self, action):
        self.ask(stopping, "stop_asked", self.stepped == 0)
        return super().step(action)


def test_an_off_policy_run_goes_on_with_the_evaluation_in_which_it_was_stopped(
    tmp_path, monkeypatch
):
    """Stopped while it is judged at 8: that step's row and evaluation come once, and first."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    off_policy(options(whole, log=8, judge=8), Known([[2], [3]]))
    config = options(cut, log=8, judge=8)
    with pytest.raises(Interrupted):
        off_policy(config, Known([[2], [3]]), Asks([[2], [2]], monkeypatch.setattr))
    assert (cut / "run" / "metrics.jsonl").read_text() == ""
    monkeypatch.setattr(stopping, "stop_asked", False)
    env, judge = Known([[2], [3]]), Known([[2], [2]])
    off_policy(config, env, judge, resume=True)
    assert [len(judge.seeds), env.stepped, len(env.actions)] == [3, 12, 8]
    texts = [(path / "run" / "metrics.jsonl").read_text() for path in (whole, cut)]
    assert texts[0] == texts[1] and len(texts[0].splitlines()) == 6


def test_a_dump_shows_every_eighth_step_of_the_physics_and_the_last(tmp_path):
    """Two worlds, 150 steps: of 8, 16, ..., 144 the last 16, and where it stands."""
    env = Known([[3], [7]])
    env.physics = SimpleNamespace(get_state=lambda: env.stepped)
    buffer = ReplayBuffer(Layout(3, 1), 400, 2)
    s = Session(Counter(), env, Known([[2]]), buffer, buffer, 0)
    config = options(tmp_path, steps=1000)
    with a_run(config) as run:
        for _ in offpolicy.steps(run, s, config):
            if env.stepped == 20:
                assert list(s.trail) == [8, 16] and s.dumped()["trail"] == [8, 16, 20]
            if env.stepped == 150:
                break
    assert list(s.trail) == list(range(24, 145, 8)) and len(s.trail) == 16


# -- on-policy


def test_ppos_rows_are_of_the_episodes_in_its_rollouts(tmp_path):
    """Six vector steps a rollout: three episodes of 2 steps for 2, two of 3 steps for 6."""
    from reverie.agents.sb3 import PPOConfig
    from reverie.experiments.loops import onpolicy

    config = options(tmp_path, log=12, judge=24)
    agent = PPOConfig(n_steps=6, batch_size=4, n_epochs=1, hidden=(4,))
    s = onpolicy.PPOSession(Known([[2], [3]], paid=0.0), agent, 0)
    judge = Known([[2], [4]], paid=0.0)
    with a_run(config) as run:
        judged = onpolicy.train(run, s, judge, config)
    logged = rows(run.path, "train")
    assert [row["step"] for row in logged] == [12, 24]
    assert [(row["return"], row["length"]) for row in logged] == [(3.6, 2.4)] * 2
    assert {row["bad_worlds"] for row in logged} == {0} and "value_loss" in logged[0]
    assert judged.returns.tolist() == [[2], [8]] and judge.seeds == [EVAL_SEED]
    assert s.policy.statistics is s.normal.obs_rms and s.policy.policy is s.model.policy
    assert rows(run.path, "eval")[-1]["return"] == 5


def test_the_worlds_of_ppo_begin_far_from_those_of_the_next_seed():
    """SB3 hands its bare seed on, by which world 1 of seed 0 would be world 0 of seed 1."""
    from reverie.agents.sb3 import PPOConfig
    from reverie.experiments.loops import onpolicy

    for seed in (0, 1):
        env = Known([[2], [3]], paid=0.0)
        onpolicy.PPOSession(env, PPOConfig(n_steps=6, batch_size=4, hidden=(4,)), seed)
        assert env.seeds == [seed * SEED_STRIDE]


def test_ppo_goes_on_with_the_evaluation_in_which_it_was_stopped(tmp_path, monkeypatch):
    """Stopped while it is judged after the first of two rollouts of 12 transitions."""
    from reverie.agents.sb3 import PPOConfig
    from reverie.experiments.loops import onpolicy

    agent, rollouts = PPOConfig(n_steps=6, batch_size=4, n_epochs=1, hidden=(4,)), []

    def go(judge, resume=False):
        s = onpolicy.PPOSession(Known([[2], [3]], paid=0.0), agent, 0)
        real = s.model.collect_rollouts
        s.model.collect_rollouts = lambda *a, **k: (rollouts.append(run.step), real(*a, **k))[1]
        with a_run(options(tmp_path, log=12, judge=12), resume) as run:
            onpolicy.train(run, s, judge, options(tmp_path))
        return run.path

    with pytest.raises(Interrupted):
        go(Asks([[2], [4]], monkeypatch.setattr))
    monkeypatch.setattr(stopping, "stop_asked", False)
    path = go(Known([[2], [4]], paid=0.0), resume=True)
    assert rollouts == [0, 12]
    logged = [(r["step"], r["return"], r["length"]) for r in rows(path, "train")]
    assert logged == [(12, 3.6, 2.4), (24, 3.6, 2.4)]
    assert [(r["step"], r["return"]) for r in rows(path, "eval")] == [(12, 5), (24, 5)]


def test_a_policy_of_sb3_sees_what_vecnormalize_shows():
    from reverie.agents.sb3 import SB3Policy

    class Net:
        def set_training_mode(self, mode):
            assert mode is False

        def _predict(self, obs, deterministic):
            return obs * (0.1 if deterministic else 0.01)

    policy = SB3Policy(Net(), SimpleNamespace(mean=[1.0, 2.0], var=[4.0, 0.25]))
    obs = torch.tensor([[5.0, 2.5], [99.0, -97.0]])  # (2, 1), and beyond 10 on both sides
    assert torch.allclose(policy.act(obs, (), explore=False)[0],
                          torch.tensor([[0.2, 0.1], [1.0, -1.0]]))  # fmt: skip
    assert torch.allclose(policy.act(obs, (), explore=True)[0],
                          torch.tensor([[0.02, 0.01], [0.1, -0.1]]))  # fmt: skip
    plain, _ = SB3Policy(Net()).act(obs[:1], (), explore=False)
    assert torch.allclose(plain, torch.tensor([[0.5, 0.25]]))


# -- the run


def test_when_something_is_due(tmp_path):
    config = options(tmp_path, steps=20)
    with a_run(config) as run:
        seen = []
        for _ in range(5):
            run.tick(4)
            seen.append((run.step, run.due(5), run.due(8), run.due(0)))
    # a multiple is crossed, or the run is over
    assert seen == [
        (4, False, False, False), (8, True, True, False), (12, True, False, False),
        (16, True, True, False), (20, True, True, True),
    ]  # fmt: skip


def test_a_rate_is_of_the_steps_since_the_last_row(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    with a_begun_run(options(tmp_path)) as run:
        for steps, seconds in ((10, 2.0), (30, 3.0)):
            run.tick(steps)
            clock[0] += seconds
            run.log({}, kind="eval")  # has no time
            run.log({})
    lines = [json.loads(x) for x in (run.path / "timing.jsonl").read_text().splitlines()]
    assert [(r["step"], r["steps_per_second"]) for r in lines] == [(10, 5.0), (40, 10.0)]


def test_a_frame_has_a_column_for_each_metric(tmp_path):
    with a_begun_run(options(tmp_path)) as run:
        run.log({"return": 1.0, "a": 2.0}, kind="eval")
        run.tick(3)
        run.log({"return": torch.tensor(4.0), "b": 5}, kind="eval")
        run.log({"return": 9.0})
    frame = load_run(run.path).frame()
    assert {k: v.tolist() for k, v in frame.items() if k in ("step", "return")} == {
        "step": [0, 3], "return": [1, 4],
    }  # fmt: skip
    assert frame["a"][0] == 2 and np.isnan(frame["a"][1]) and frame["b"][1] == 5
    assert load_run(run.path).frame("train")["return"].tolist() == [9]


def test_eval_prints_what_it_saw(monkeypatch, capsys):
    """Worlds of 2 and 4 steps: 2 + 1 and 8 + 6."""
    from reverie.experiments.looking import commands

    made = []
    monkeypatch.setattr(commands, "load_policy", lambda path: Counter())
    monkeypatch.setattr(commands, "_world", lambda *a: (made.append(a), Known([[2], [4]]))[1])
    assert commands.score(["r", "--episodes", "9"]) == 0 and made[0][1:] == (None, 9)
    row = json.loads(capsys.readouterr().out)
    assert row == {
        "run": "r", "return": 8.5, "std": 5.5, "min": 3, "max": 14, "length": 3, "episodes": 2,
    }  # fmt: skip
