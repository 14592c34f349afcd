"""Stable-Baselines3's SAC or TD3 on gymnasium's own environment, written down as our runs are.

The peer of a comparison: `reverie peer --algo sac --env HalfCheetah-v5`. It is judged on the same
start states by the same `evaluate`; it cannot be resumed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from ...agents.playing import EVAL_SEED, Evaluation, Stopped, evaluate
from ...envs import make
from ...envs.make import gymnasium_options
from ..runs.config import RunOptions, check
from ..runs.resources import use_threads
from ..runs.result import Result
from ..runs.run import Run
from ..runs.stopping import Interrupted


@dataclass(frozen=True)
class Config:
    """A run of Stable-Baselines3; its own defaults where nothing is said."""

    algo: Literal["sac", "td3"] = "sac"
    """the learner"""
    env: str = "HalfCheetah-v5"
    """gymnasium id"""
    steps: int = 50_000
    """environment transitions"""
    seed: int = 0
    """seed of everything"""
    learning_starts: int = 5_000
    """transitions of random actions before the first update"""
    buffer_size: int = 1_000_000
    """transitions that its replay buffer holds"""
    hidden: tuple[int, ...] = (256, 256)
    """hidden layer widths"""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """options of the environment, from Python or a config file"""
    run: RunOptions = field(default_factory=RunOptions)
    """the run directory"""


PRESETS = {"default": Config()}
STEP = "environment steps"


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train the peer as configured."""
    if resume:
        raise ValueError("a run of Stable-Baselines3 cannot be resumed: it saves no generators")
    import gymnasium
    import stable_baselines3 as sb3
    from stable_baselines3.common.callbacks import BaseCallback

    from ...agents.sb3 import SB3Policy

    c = check(config or Config())
    threads = use_threads(c.run.threads)
    judge = make(c.env, c.run.eval_episodes, threads=threads, **c.env_options)
    policy_kwargs = {"net_arch": list(c.hidden)}
    model = {"sac": sb3.SAC, "td3": sb3.TD3}[c.algo](
        "MlpPolicy",
        gymnasium.make(c.env, **gymnasium_options(c.env_options)),
        learning_rate=3e-4,
        learning_starts=c.learning_starts,
        buffer_size=c.buffer_size,
        batch_size=256,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs=policy_kwargs,
        seed=c.seed,
        device="cpu",
    )
    label = f"sb3-{c.algo}-{c.env.split('/')[-1]}-s{c.seed}"
    with Run("peer", c, label=label, steps=c.steps, seed=c.seed) as run:
        with run.restored():
            pass

        again = Interrupted(f"{run.path} (from its start: it cannot be resumed)")

        def judging() -> Evaluation:
            policy = SB3Policy(model.policy)
            try:
                return evaluate(policy, judge, seed=EVAL_SEED, stop=lambda: run.stopping)
            except Stopped:
                raise again from None

        class Log(BaseCallback):  # type: ignore[misc]
            def _on_step(self) -> bool:
                run.tick(1)
                if run.stopping:
                    raise again
                for info in self.locals["infos"]:
                    if run.due(run.options.log_every) and "episode" in info:
                        run.log({"return": info["episode"]["r"]})
                if run.due(run.options.eval_every):
                    run.log(judging().row(), kind="eval")
                return True

        model.learn(c.steps, callback=Log(), log_interval=None)
        judged = judging()
    return Result(run.path, run.step, judged)


def load(config: Mapping[str, Any], state: Mapping[str, Any]) -> NoReturn:
    """Raise ValueError: a run of the peer keeps no checkpoint."""
    raise ValueError("a run of Stable-Baselines3 keeps no policy of ours")
