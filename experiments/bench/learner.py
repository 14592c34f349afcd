"""Gradient steps per second of SAC and TD3, sampling included, beside Stable-Baselines3's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...agents import SAC, TD3, SACConfig
from ...buffers import Layout, ReplayBuffer, Transitions
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

SB3 = "SB3"
OBS, ACT, BATCH, HIDDEN = 17, 6, 256, (256, 256)
STEPS = 10  # gradient steps in one turn; even, so that TD3's delay is the same for all
ROWS = 100_000  # transitions in each replay buffer
AGENTS: dict[str, Any] = {"SAC": SAC, "TD3": TD3}
EAGER = "our eager"
SMALL = SACConfig(policy_delay=20, actor_value="mean", critic_norm="layer", hidden=(128, 128))

Work = Callable[[], int]


def run(options: BenchOptions, rows: int = ROWS) -> Report:
    """Measure gradient steps on random data: ours, ours in bfloat16, SB3's `train`."""
    report = Report("learner", "gradient steps/s", _peers(options))
    variants: dict[str, dict[str, Any]] = {"": {}, " bfloat16": {"bfloat16": True}}
    if options.compile:
        variants |= {
            " compile": {"compile": True},
            " compile bfloat16": {"compile": True, "bfloat16": True},
        }
    with torch_threads(options.threads):
        for name in AGENTS:
            contestants = {v: make_ours(name, rows, **how) for v, how in variants.items()}
            contestants[SB3] = make_sb3(name, rows)
            rates = interleave(contestants, options.repeats, options.seconds)
            for variant in variants:
                report.rows.append(Row(name + variant, OURS, rates[variant]))
                report.rows.append(Row(name + variant, SB3, rates[SB3]))
        if options.compile:
            report.rows.extend(normalised(options, rows))
    return report


def normalised(options: BenchOptions, rows: int) -> list[Row]:
    """Measure what compiling brings where critics have layer norm, as in SynthER's `cpu` preset."""
    contestants = {
        who: make_ours("SAC", rows, config=SMALL, batch=128, compile=who == OURS)
        for who in (OURS, EAGER)
    }
    rates = interleave(contestants, options.repeats, options.seconds)
    return [Row("SAC 2x128 layer norm compile", who, rates[who]) for who in (OURS, EAGER)]


def _peers(options: BenchOptions) -> tuple[Peer, ...]:
    sizes = f"{OBS}+{ACT} dims, hidden {HIDDEN}, batch {BATCH}, own replay sampled"
    threads = f"torch {torch.__version__} with {options.threads} threads"
    return (
        Peer(OURS, version("reverie"), f"{sizes}; {threads}; float32 unless the row says so"),
        Peer(SB3, version("stable-baselines3"), f"{sizes}; {threads}; float32, train(), no logger"),
        *([Peer(EAGER, version("reverie"), "the same without compile")] if options.compile else []),
    )


def _columns(rows: int) -> Transitions:
    """Return random transitions [rows]."""
    g = torch.Generator().manual_seed(0)
    return Transitions(
        torch.randn(rows, OBS, generator=g),
        2 * torch.rand(rows, ACT, generator=g) - 1,
        torch.randn(rows, generator=g),
        torch.randn(rows, OBS, generator=g),
        (torch.rand(rows, generator=g) < 1e-2).float(),
        torch.zeros(rows),
    )


def make_ours(
    name: str,
    rows: int,
    *,
    config: SACConfig | None = None,
    batch: int = BATCH,
    bfloat16: bool = False,
    compile: bool = False,
) -> Work:
    """Return a callable that takes `STEPS` gradient steps of our SAC or TD3."""
    agent = AGENTS[name](OBS, ACT, config, bfloat16=bfloat16, compile=compile)
    buffer = ReplayBuffer(Layout(OBS, ACT), rows, rows)
    buffer.add(_columns(rows))

    def work() -> int:
        for _ in range(STEPS):
            agent.update(buffer.sample(batch))
        return STEPS

    return work


def make_sb3(name: str, rows: int) -> Work:
    """Return a callable that takes `STEPS` gradient steps of SB3's SAC or TD3."""
    import gymnasium
    import stable_baselines3
    from gymnasium.spaces import Box
    from gymnasium.wrappers import TransformObservation
    from stable_baselines3.common.logger import Logger

    # For its spaces only; in float32, as in our replay.
    env = gymnasium.make("reverie/HalfCheetah-v5")
    space = Box(-np.inf, np.inf, (OBS,), np.float32)
    model: Any = getattr(stable_baselines3, name)(
        "MlpPolicy",
        TransformObservation(env, lambda obs: obs.astype(np.float32), space),
        learning_rate=3e-4,
        buffer_size=rows,
        batch_size=BATCH,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device="cpu",
    )
    model._logger = Logger(None, [])
    buffer, data = model.replay_buffer, _columns(rows)
    buffer.observations[:, 0] = data.obs
    buffer.next_observations[:, 0] = data.next_obs
    buffer.actions[:, 0] = data.action
    buffer.rewards[:, 0] = data.reward
    buffer.dones[:, 0] = data.terminated
    buffer.full = True

    def work() -> int:
        model.train(gradient_steps=STEPS, batch_size=BATCH)
        return STEPS

    return work
