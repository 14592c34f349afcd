"""Contexts that are not real are found out; those of the issue are real."""

import numpy as np
import pytest

from reverie.envs import contexts, make, reality
from reverie.envs.contexts import parse_contexts
from reverie.envs.reality import require_real

OF_TASKS = {
    "CartPoleSwingUp-v0": ("length=log:0.3:3:3", "gear=log:0.3:3:3", "mass=log:0.3:3:3"),
    "PendulumSwingUp-v0": ("length=lin:0.3:3:3", "gear=1,2", "mass=1,2", "gravity=5,9.81"),
    "InvertedPendulum-v5": ("gear=log:0.3:3:5",),
    "HalfCheetah-v5": ("gravity=log:2.94:29.4:3",),
    "Hopper-v5": ("gravity=5,9.81", "damping=1,2"),
    "Walker2d-v5": ("friction=1,2", "mass=1,2"),
    "Swim-v0": ("density=log:900:9000:3", "gear=1,2"),
    "CheetahVel-v0": ("velocity=0.5,1",),
}


@pytest.mark.parametrize("task", OF_TASKS)
def test_the_contexts_of_a_task_are_real(task):
    found = require_real(f"reverie/{task}", parse_contexts(OF_TASKS[task]))
    assert len(found) == 3 * len(OF_TASKS[task]) + 1 and all(f.holds for f in found)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (lambda model, value, element: None, "changes the task"),
        (lambda model, value, element: model.body_mass.__imul__(value + 1e-9), "default is"),
    ],
)
def test_a_context_that_does_not_do_what_it_says_is_named(broken, test, monkeypatch):
    monkeypatch.setitem(contexts.FEATURES, "mass", broken)
    with pytest.raises(ValueError, match=f"not what they say: mass: {test}.* does not hold"):
        require_real("reverie/CartPoleSwingUp-v0", parse_contexts(("mass=0.5,2",)))


def test_worlds_that_do_not_step_as_their_model_are_named(monkeypatch):
    """As a wrapper would that writes a context into another model than it steps."""

    def with_plain_model(env_id, n, context=None, **options):
        env = make(env_id, n, context=context, **options)
        if context is not None:
            env.worlds.models = [make(env_id, 1).model]
        return env

    monkeypatch.setattr(reality, "make", with_plain_model)
    with pytest.raises(ValueError, match="length: steps as its model does not hold"):
        require_real("reverie/PendulumSwingUp-v0", parse_contexts(("length=0.5,2",)))


@pytest.mark.parametrize("task", ["InvertedDoublePendulum-v5", "Hopper-v5"])
def test_a_context_that_ends_at_once_is_named_by_its_values(task):
    told = r"survives without an action does not hold \(1 of 2 .*\[\[0\.5\]\]\)"
    with pytest.raises(ValueError, match=told):
        require_real(f"reverie/{task}", parse_contexts(("length=0.5,1",)))


def test_an_unknown_feature_is_named():
    with pytest.raises(ValueError, match="lenght"):
        require_real("reverie/Hopper-v5", parse_contexts(("lenght=0.5,1",)))


def test_spaced_values_of_a_context():
    grid = parse_contexts(("length=log:0.25:4:3", "gear=lin:1:2:3"))
    assert grid.table[:, 0].tolist() == pytest.approx([0.25] * 3 + [1] * 3 + [4] * 3)
    assert grid.table[:3, 1].tolist() == [1, 1.5, 2]
    assert np.array_equal(parse_contexts(("mass=1,3",)).table[:, 0], [1, 3])
    for text in ("log:0:1:3", "log:-1:1:3", "lin:1:2", "lin:1:2:1", "lin:1:2:x", "lin:1:2:3:4:x"):
        with pytest.raises(ValueError, match=r"give a name and numbers"):
            parse_contexts((f"length={text}",))
