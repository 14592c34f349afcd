"""From a run directory, or a name in the zoo, to a policy."""

import json
import logging
from pathlib import Path

from ...buffers.untrusted import READING, small_text, told
from ...envs import Spaces
from .. import methods
from . import checkpoint, zoo
from .config import read_config
from .policy import LoadedPolicy

log = logging.getLogger("reverie")


def load_policy(path: str | Path) -> LoadedPolicy:
    """Return the policy of a run directory's newest good checkpoint, or `zoo:NAME` of the zoo.

    Of the checkpoint only the agent counts: the buffer's shards may be gone or damaged. Raises
    FileNotFoundError, and ValueError for a run whose files do not make a policy.
    """
    if str(path).startswith(zoo.PREFIX):
        return zoo.load(str(path).removeprefix(zoo.PREFIX))
    path = Path(path)
    method, config = read_config(path)
    script = methods.known_script(method)
    try:
        found = checkpoint.load(path / "checkpoints", path / "buffer", stores=False)
        if found is not None:
            more = found.state.get("more", {}).get("chosen", {})  # what acts in the agent's place
            policy, obs_dim = script.load(config, {**found.state["agent"], **more})
            return LoadedPolicy(policy, obs_dim, config, kept_spaces(path))
    except READING as error:
        if method not in methods.METHODS:
            raise  # of somebody's own script: theirs to find
        why = " ".join(told(error).split())  # one line, however many checkpoints it names
        raise ValueError(
            f"{path}: its checkpoint and config.json do not make a policy: {why}"
        ) from error
    raise FileNotFoundError(f"{path} has no usable checkpoint yet")


def kept_spaces(run: Path) -> Spaces | None:
    """Return what the stamp says that a run's environment gives and takes; None if it is silent."""
    stamp = run / "stamp.json"
    if not stamp.exists():
        return None
    try:
        text = json.loads(small_text(stamp))["notes"].get("spaces")
        return None if text is None else Spaces.from_json(text)
    except READING as error:
        log.warning("%s is not readable (%s): the environment is asked instead", stamp, told(error))
        return None
