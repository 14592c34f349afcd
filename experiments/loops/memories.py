"""What can be kept of a task beside its transitions: a Source of rows with their labels."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...agents.seeding import stream_seed
from ...agents.synther.config import DiffusionConfig
from ...agents.synther.diffusion import Diffusion
from ...agents.synther.source import Frozen
from ...buffers import Layout, Source
from ..runs.run import Run
from .continual import Learning

SMALL = DiffusionConfig(
    width=64, depth=2, noise_width=32, updates=4000, terminal="none", reward="modelled"
)


class Memory(NamedTuple):
    """A memory of your own: any Source of a task's rows whose actions are labels."""

    empty: Callable[[Any, Layout], Source]  # what a saved one is loaded into
    of: Callable[[Run, Any, Learning], Source]  # of the task that ends; may open phases


def generator_of(c: Any, layout: Layout, task: int = 0) -> Diffusion:
    """Return the diffusion model of a task's labelled rows, not yet fitted."""
    rows = Layout(layout.obs_dim, layout.act_dim)
    return Diffusion(rows, c.generator, seed=stream_seed(c.seed, f"memory {task}"))


def generated(run: Run, c: Any, s: Learning) -> Source:
    """Fit a diffusion model to the task's rows and their labels: a memory of a fixed size."""
    task, data = s.learner.task, s.datasets[s.learner.task]
    if s.generator is None:
        s.generator = generator_of(c, data.layout, task)
    model, every = s.generator, data.all
    labelled = every._replace(action=s.learner.label(every.obs, every.action), extra={})
    rows = model.layout.pack(labelled)
    with run.phase("memory fit", c.generator.updates) as fit:
        if fit.step == 0:
            model.begin(rows)
        while fit.step < fit.steps and not model.done:
            fit.advance(model.fit_step(rows), s.state_dict)
    s.generator = None
    return Frozen(model)


def go_on(c: Any, s: Learning, state: Mapping[str, Any]) -> None:
    """Take over the model of a memory in whose fit a run was stopped."""
    if state["generator"] is not None:
        task = s.learner.task
        s.generator = generator_of(c, s.datasets[task].layout, task)
        s.generator.load_state_dict(state["generator"])


# By the name that `--memory` takes; beside them stand replay, none and distilled.
MEMORIES = {"synther": Memory(lambda c, layout: Frozen(generator_of(c, layout)), generated)}
