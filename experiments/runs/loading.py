"""From a run directory, or a name in the zoo, to a policy."""

from pathlib import Path

from .. import methods
from . import checkpoint, zoo
from .config import read_config
from .policy import LoadedPolicy


def load_policy(path: str | Path) -> LoadedPolicy:
    """Return the policy of a run directory's newest good checkpoint, or `zoo:NAME` of the zoo."""
    if str(path).startswith(zoo.PREFIX):
        return zoo.load(str(path).removeprefix(zoo.PREFIX))
    path = Path(path)
    method, config = read_config(path)
    found = checkpoint.load(path / "checkpoints", path / "buffer")
    if found is None:
        raise FileNotFoundError(f"{path} has no usable checkpoint yet")
    policy, obs_dim = methods.known_script(method).load(config, found.state["agent"])
    return LoadedPolicy(policy, obs_dim, config)
