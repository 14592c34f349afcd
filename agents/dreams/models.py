"""The world models by name."""

from .config import ModelConfig
from .ensemble import DreamEnsemble
from .mlp import DropoutMLP
from .rnn import MDNRNN

Model = DropoutMLP | MDNRNN | DreamEnsemble
KINDS = {"mlp": DropoutMLP, "lstm": MDNRNN, "gru": MDNRNN, "ensemble": DreamEnsemble}


def build(obs_dim: int, act_dim: int, config: ModelConfig | None = None, *, seed: int = 0) -> Model:
    """Return a world model with drawn weights; raises ValueError for settings that none can have.

    `Fit` fits it, `DreamEnv` dreams in it.
    """
    c = config or ModelConfig()
    c.check()
    model: Model = KINDS[c.kind](obs_dim, act_dim, c, seed=seed)
    return model
