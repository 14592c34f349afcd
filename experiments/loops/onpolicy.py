"""The loop of Stable-Baselines3's PPO over our worlds: roll out, learn, and now and then look."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from ...agents.playing import EVAL_SEED, SEED_STRIDE, Evaluation, Stopped, evaluate, never
from ...agents.sb3 import PPOConfig, SB3Policy, build_ppo
from ...envs import BatchEnv
from ...envs.gym.sb3 import BatchVecEnv
from ..runs.directory import Stores
from ..runs.result import Result
from ..runs.run import Run
from .build import worlds_for


class Episodes(BaseCallback):  # type: ignore[misc]
    """Keeps the episodes that ended since the last row of the log; ends a rollout to be stopped."""

    recent: list[tuple[float, int]]
    stop: Callable[[], bool] = staticmethod(never)

    def _on_step(self) -> bool:
        ended = [i["episode"] for i in self.locals["infos"] if "episode" in i]
        self.recent += [(float(e["r"]), int(e["l"])) for e in ended]
        return not self.stop()

    def go_on(self, *_: Any) -> None:
        """Raise Stopped if the run was told to stop."""
        if self.stop():
            raise Stopped("a rollout, or learning from it, was told to stop")


class PPOSession:
    """SB3's PPO with everything around it that a run changes, as one state.

    Stable-Baselines3 draws from torch's and numpy's global generators: they belong to the run.
    """

    def __init__(
        self, env: BatchEnv, config: PPOConfig, seed: int, policy: Any = "MlpPolicy", **kwargs: Any
    ) -> None:
        self.env, self.seed = env, seed
        self.monitor = VecMonitor(BatchVecEnv(env))
        self.normal: VecNormalize | None = None
        worlds: Any = self.monitor
        if config.normalize:
            worlds = self.normal = VecNormalize(self.monitor, gamma=config.gamma)
        self.model: PPO = build_ppo(worlds, config, seed, policy, kwargs)
        self.callback = Episodes()
        self.callback.recent = []
        self.metrics: dict[str, float] = {}  # of the last rollout
        self.more: dict[str, Any] = {}  # further parts with a state, by name: a script's own
        self.stores: Stores = {}  # buffers of such parts
        self.monitor.seed(seed * SEED_STRIDE)  # which the model has set to the bare seed
        self.model._setup_learn(0, self.callback)
        self.model.policy.optimizer.register_step_pre_hook(self.callback.go_on)
        self.policy = SB3Policy(self.model.policy, self.normal and self.normal.obs_rms)

    def begin(self, run: Run) -> None:
        """Go on from the newest checkpoint, if there is one."""
        run.home.note(**self.env.notes)
        with run.restored(self.stores) as state:
            if state is None:
                return
            self.load_state_dict(state)
            if not self.env.restores:
                run.home.note(resume="the environment has no saved state: restarted at a reset")
                self.env.reset(self.seed * SEED_STRIDE + run.step)
                m = self.model
                m._last_obs, m._last_episode_starts = m.env.reset(), np.ones(m.n_envs)

    def restart(self) -> None:
        """Look at the worlds anew, after something else than the session has begun them again."""
        m = self.model
        if self.normal is not None and m.num_timesteps == 0:  # so far there was nothing to see
            one = np.ones_like(self.normal.obs_rms.var)
            _set_moments(self.normal.obs_rms, {"mean": 0 * one, "var": one, "count": 1e-4})
        m._last_obs, m._last_episode_starts = m.env.reset(), np.ones(m.n_envs)

    def agent_state(self) -> dict[str, Any]:
        """What acts: the policy, its optimiser, the statistics of observations."""
        return {
            "policy": self.model.policy.state_dict(),
            "optimizer": self.model.policy.optimizer.state_dict(),
            "statistics": self.normal and _moments(self.normal.obs_rms),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs, at the end of a rollout."""
        m = self.model
        name, key, *rest = np.random.get_state()
        return {
            "agent": self.agent_state(),
            "env": self.env.state_dict(),
            "returns": self.normal and (_moments(self.normal.ret_rms), self.normal.returns),
            "monitor": (self.monitor.episode_returns, self.monitor.episode_lengths),
            "last": (m._last_obs, m._last_episode_starts, m.num_timesteps, m._n_updates),
            "recent": self.callback.recent,
            "metrics": self.metrics,
            "torch": torch.get_rng_state(),
            "numpy": (name, np.asarray(key, np.int64), *rest),
            "more": {name: part.state_dict() for name, part in self.more.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        m, agent = self.model, state["agent"]
        m.policy.load_state_dict(agent["policy"])
        m.policy.optimizer.load_state_dict(agent["optimizer"])
        self.env.load_state_dict(state["env"])
        if self.normal is not None:
            _set_moments(self.normal.obs_rms, agent["statistics"])
            moments, returns = state["returns"]
            _set_moments(self.normal.ret_rms, moments)
            self.normal.returns = returns.copy()
        sums, lengths = state["monitor"]
        self.monitor.episode_returns, self.monitor.episode_lengths = sums.copy(), lengths.copy()
        obs, m._last_episode_starts, m.num_timesteps, m._n_updates = state["last"]
        m._last_obs = obs.copy()
        self.callback.recent = list(state["recent"])
        self.metrics = state["metrics"]
        torch.set_rng_state(state["torch"])
        name, key, *rest = state["numpy"]
        np.random.set_state((name, key.astype(np.uint32), *rest))
        for name, part in self.more.items():
            part.load_state_dict(state["more"][name])

    def learn(self) -> None:
        """Roll out and learn from it; Stopped in the middle of either."""
        m = self.model
        if not m.collect_rollouts(m.env, self.callback, m.rollout_buffer, m.n_steps):
            self.callback.go_on()
        m.train()
        values = m.logger.name_to_value
        self.metrics = {k.split("/")[1]: float(v) for k, v in values.items() if k[:6] == "train/"}

    def row(self) -> dict[str, float]:
        """Return what to log, and forget the episodes in it."""
        row = {k: v for k, v in self.metrics.items() if np.isfinite(v)}  # NaN: nothing to explain
        row |= self.env.health()
        if recent := self.callback.recent:
            row["return"] = sum(r for r, _ in recent) / len(recent)
            row["length"] = sum(n for _, n in recent) / len(recent)
        self.callback.recent = []
        return row

    def require_finite(self, run: Run) -> None:
        """Stop the run with a dump if the loss or a parameter is not finite."""
        loss = self.metrics["loss"]
        bad = [n for n, p in self.model.policy.named_parameters() if not torch.isfinite(p).all()]
        if bad or not np.isfinite(loss):
            b = self.model.rollout_buffer
            rollout = {"obs": b.observations, "action": b.actions, "reward": b.rewards}
            what = "loss" if not bad else f"parameters {', '.join(bad)}"
            run.dump({**self.state_dict(), "batch": rollout}, f"{what} not finite")


def _moments(x: Any) -> dict[str, Any]:
    return {"mean": np.asarray(x.mean), "var": np.asarray(x.var), "count": float(x.count)}


def _set_moments(x: Any, values: dict[str, Any]) -> None:
    x.mean, x.var, x.count = values["mean"].copy(), values["var"].copy(), values["count"]


def run_ppo(
    method: str,
    config: Any,
    agent: PPOConfig,
    resume: bool,
    policy: Any = "MlpPolicy",
    **kwargs: Any,
) -> Result:
    """Train PPO as configured; `policy` and its `kwargs` as Stable-Baselines3 takes them."""
    c = config
    if c.run.device != "cpu":
        raise ValueError(f"PPO runs on the CPU here, got device={c.run.device!r}")
    env, judge = worlds_for(c)
    s = PPOSession(env, agent, c.seed, policy, **kwargs)
    label = f"{method}-{c.env.split('/')[-1]}-s{c.seed}"
    with Run(method, c, label=label, steps=c.steps, seed=c.seed, resume=resume) as run:
        judged = train(run, s, judge, c)
    return Result(run.path, run.step, judged)


def steps(run: Run, s: PPOSession, config: Any, first: Callable[[], Any] = never) -> Iterator[None]:
    """Roll out and learn until `config.steps` transitions or a rollout more; yield after each.

    SB3 cannot save inside a rollout or its learning: told to stop there, the run saves its state
    from before. `first` as `offpolicy.steps`. Raises Interrupted and Diverged.
    """
    s.begin(run)
    model = s.model
    s.callback.stop = lambda: run.stopping
    first()
    if run.owed:  # only what follows the rollout is left of it
        yield
    while run.step < config.steps:
        before = copy.deepcopy(s.state_dict())
        with run.interruptible(before.copy, s.stores, owed=False):
            s.learn()
        run.tick(model.n_envs * model.n_steps)
        s.require_finite(run)
        yield


def train(run: Run, s: PPOSession, judge: BatchEnv, config: Any) -> Evaluation:
    """Train until `config.steps`; return the last evaluation. Errors as `steps`."""

    def judging() -> Evaluation:
        return evaluate(s.policy, judge, seed=EVAL_SEED, stop=s.callback.stop)

    judged: Evaluation | None = None
    for _ in steps(run, s, config):
        judged = run.after_step(judging, s.row, s.state_dict)
    return run.final(judged, judging)
