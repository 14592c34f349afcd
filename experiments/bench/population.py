"""Swimming steps per second of a population: candidates x episodes in one batch of worlds."""

import math
from typing import Any

import mujoco
import numpy as np
import torch

from ...agents.candidates import Play
from ...agents.controllers import to_numpy
from ...agents.ncap import Circuit, joint_limit
from ...envs import make
from .env import engine_share
from .report import OURS, BenchOptions, Peer, Report, Row, interleave, torch_threads, version

LOOP = "one-env loop"
LINKS = 6
CANDIDATES = 16


def run(options: BenchOptions) -> Report:
    """Measure 16 candidates with 1, 2 and 4 episodes each against one bare MuJoCo loop."""
    one = "one world, mj_step in Python, the circuit in numpy scalars, no library of ours"
    own = f"{CANDIDATES} candidates, {options.threads} threads, float32, the circuit in numpy"
    peers = (
        Peer(OURS, version("reverie"), f"{own}, mujoco {mujoco.__version__}"),
        Peer(LOOP, version("mujoco"), one),
    )
    report = Report("population", "env steps/s", peers)
    with torch_threads(1):
        for episodes in (1, 2, 4):
            case = f"Swim-v0 {LINKS} links, {CANDIDATES} x {episodes}"
            ours = Ours(CANDIDATES, episodes, options.threads)
            contestants: dict[str, Any] = {OURS: ours, LOOP: OneWorld()}
            rates = interleave(contestants, options.repeats, options.seconds)
            report.rows.extend(Row(case, who, values) for who, values in rates.items())
            report.shares[case] = engine_share(ours.env, ours, options.seconds)
    return report


class Ours:
    """A population's step: observe, act by each candidate's weights, step, add the reward."""

    def __init__(self, candidates: int, episodes: int, threads: int) -> None:
        env: Any = make(
            "reverie/Swim-v0",
            candidates * episodes,
            links=LINKS,
            time_feature=True,
            threads=threads,
        )
        self.env = env
        circuit = Circuit(LINKS - 1, joint_limit(LINKS))
        noise = torch.randn(candidates, 1, circuit.size, generator=torch.Generator().manual_seed(0))
        bound = to_numpy(circuit.bind(circuit.initial() + 0.2 * noise))
        self.play = Play(env, circuit, bound, (candidates, episodes))

    def __call__(self) -> int:
        """Play one vector step; return its transitions."""
        self.play.step()
        return int(self.env.num_envs)


class OneWorld:
    """The loop that one writes by hand around one MuJoCo world: the leanest that we know."""

    def __init__(self) -> None:
        self.model = make("reverie/Swim-v0", 1, links=LINKS).model  # type: ignore[attr-defined]
        self.data = mujoco.MjData(self.model)
        self.limit, self.step, self.total = joint_limit(LINKS), 0, 0.0
        self.data.qpos[2:] = np.random.default_rng(0).uniform(-1, 1, LINKS)
        mujoco.mj_step1(self.model, self.data)

    def __call__(self) -> int:
        """Play 20 steps; return 20."""
        model, data = self.model, self.data
        for _ in range(20):
            bend = np.clip(data.qpos[3:-1] / self.limit, -1, 1)
            data.ctrl[0] = 1.0 if self.step % 60 < 30 else -1.0
            data.ctrl[1:] = bend  # what the circuit comes to with its unit weights
            mujoco.mj_step2(model, data)
            mujoco.mj_step(model, data, 14)
            mujoco.mj_step1(model, data)
            speed = -float(data.sensordata[1])
            self.total += min(max(speed / 0.1, 0.0), 1.0)
            self.step += 1
        assert math.isfinite(self.total)
        return 20
