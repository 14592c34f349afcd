"""Thousands of worlds and large batches, few updates a step, on a GPU.

In the manner of FastTD3 (Seo et al. 2025, arXiv:2505.22642) and FlashSAC, without their
distributional critics: what carries over is the schedule. Two updates for each step of 1,024
worlds, batches of 2,048 rows, targets that follow ten times faster, rewards of three steps.
"""

from typing import Any

from ..runs.config import RunOptions

WORLDS = 1024
OPTIONS: dict[str, Any] = {
    "env": "reverie/HalfCheetah-v5",
    "env_options": {"device": "cuda"},
    "steps": 20_000_000,
    "num_envs": WORLDS,
    "utd": 2 / WORLDS,
    "batch_size": 2048,
    "buffer_size": 2_048_000,  # 2,000 steps of each world
    "learning_starts": 10 * WORLDS,
    "n_step": 3,
    "compile": "graphs",
    "run": RunOptions(
        device="cuda", log_every=204_800, eval_every=2_048_000, checkpoint_every=10_240_000
    ),
}
LEARNER: dict[str, Any] = {"critic_norm": "layer", "tau": 0.05, "hidden": (512, 256)}
