"""Train ReBRAC on offline data: TD3+BC with penalties in actor and critic, LayerNorm, depth."""

from dataclasses import replace

from ..agents.td3 import TD3, TD3Config
from . import offline
from .result import Result
from .td3bc import Config

# Tarasov et al. 2023 (arXiv:2305.09836): three hidden layers, LayerNorm in the critics, lr 1e-3,
# batches of 1,024 for MuJoCo. bc_alpha 10 is their beta_1 = 0.017 for six actions.
_AGENT = TD3Config(
    lr=1e-3, hidden=(256, 256, 256), critic_norm="layer", bc_alpha=10.0, critic_bc=0.1
)
PRESETS = {
    "default": Config(agent=_AGENT, standardise=False),
    "paper": Config(agent=_AGENT, standardise=False, batch_size=1024, steps=1_000_000),
    "quick": Config(agent=replace(_AGENT, hidden=(256, 256)), standardise=False, steps=20_000),
}


def main(config: Config | None = None, *, resume: bool = False) -> Result:
    """Train as configured; `resume` continues the run directory bit for bit."""
    return offline.run_offline("rebrac", TD3, config or PRESETS["default"], resume)


if __name__ == "__main__":
    import sys

    from .cli import main as command

    raise SystemExit(command(["rebrac", *sys.argv[1:]]))
