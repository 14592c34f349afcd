"""Looking into the circuit: its units beside the body, and the wave along the joints."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...agents import Holds, Policy, bare
from ...agents.ncap import Activity, Circuit, Weights
from ...envs.native.env import TaskEnv
from ..studies.plots import save_figure

Image = Any  # [H, W, 3] uint8
DORSAL, VENTRAL, REST = (196, 78, 82), (76, 114, 176), (235, 235, 235)


def circuit_of(policy: Any) -> tuple[Circuit, Weights] | None:
    """Return the circuit in a policy and its weights; None if there is none in it."""
    while policy is not None:
        controller = getattr(policy, "controller", None)
        if isinstance(controller, Circuit):
            return controller, controller.bind(policy.parameters)
        actor: Any = getattr(policy, "actor", None) or getattr(policy, "action_net", None)
        if isinstance(circuit := getattr(actor, "circuit", None), Circuit):
            return circuit, circuit.bind(actor.parameters_flat.detach())
        policy = getattr(policy, "policy", None)  # what a LoadedPolicy or an SB3Policy wraps
    return None


class Panel:
    """Draws every unit of the circuit, filled by its activity, for one observation at a time.

    Columns are segments, head first; rows are oscillator and B neurons, then muscles, of the
    dorsal (red) and the ventral side (blue); bars in the middle are the torques.
    """

    def __init__(self, policy: Any, height: int) -> None:
        found = circuit_of(policy)
        if found is None:
            raise ValueError("this policy has no circuit to draw")
        self.circuit, self.weights = found
        self.height, self.cell = height, max(28, height // 7)
        self.width = self.cell * (self.circuit.joints + 1)

    def __call__(self, obs: Tensor) -> Image:
        """Return the panel [height, W, 3] for an observation [O]."""
        c = self.circuit
        with torch.no_grad():
            now = c.activity(self.weights, obs[..., : c.joints], c.step_of(obs))
        return self.draw(now)

    def draw(self, now: Activity) -> Image:
        """Return the panel of one world's activity."""
        from PIL import Image as Pictures
        from PIL import ImageDraw

        picture = Pictures.new("RGB", (self.width, self.height), "white")
        pen = ImageDraw.Draw(picture)
        step, radius = self.height / 7, self.cell * 0.3
        levels = {"B": (1, 6), "muscle": (2, 5)}
        middle = 3.5 * step

        def at(column: int, row: int) -> tuple[float, float]:
            return self.cell * (column + 0.5), row * step

        def unit(place: tuple[float, float], value: float, colour: tuple[int, int, int]) -> None:
            mix = tuple(int(r + (c - r) * value) for r, c in zip(REST, colour, strict=True))
            x, y = place
            box = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(box, fill=mix, outline=(90, 90, 90))

        for side, colour in ((0, DORSAL), (1, VENTRAL)):
            row, muscle = levels["B"][side], levels["muscle"][side]
            for i in range(self.circuit.joints):
                drive = float(self.weights.drive[..., side, i])
                pen.line((at(i, row), at(i + 1, row)), (120, 120, 120), 1 + round(drive))
                pen.line((at(i + 1, row), at(i + 1, muscle)), (120, 120, 120), 2)
            unit(at(0, row), float(now.oscillator[..., side]), colour)
            for i in range(self.circuit.joints):
                unit(at(i + 1, row), float(now.neuron[..., side, i]), colour)
                unit(at(i + 1, muscle), float(now.muscle[..., side, i]), colour)
        for i in range(self.circuit.joints):
            value = float(now.torque[..., i])
            x, _ = at(i + 1, 0)
            ends = sorted((middle, middle - value * step * 0.9))
            colour = DORSAL if value > 0 else VENTRAL
            pen.rectangle((x - radius / 2, ends[0], x + radius / 2, ends[1]), fill=colour)
        pen.text((4, 2), "head", fill=(60, 60, 60))
        pen.text((4, middle - 6), "torque", fill=(60, 60, 60))
        return np.asarray(picture)


def waves(policy: Policy | Holds, env: TaskEnv, out: Path) -> np.ndarray[Any, Any]:
    """Draw the joints' angles and phases over an episode; return the lags [N - 1] in steps.

    Lags are phase differences of neighbours, head to tail, at the spectral peak of all joints
    together, after the first 300 steps.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    joints, policy = env.act_dim, bare(policy)
    obs, state, rows = env.reset(), policy.initial_state(env.num_envs), []
    for _ in range(900):
        action, state = policy.act(obs, state, explore=False)
        obs = env.step(action).final_obs
        rows.append(obs[0, :joints].double().numpy())
    angles = np.stack(rows)
    settled = angles[300:] - angles[300:].mean(0)
    spectrum = np.fft.rfft(settled * np.hanning(len(settled))[:, None], axis=0)
    peak = int((np.abs(spectrum[1:]) ** 2).sum(1).argmax()) + 1
    period = len(settled) / peak
    phase = np.unwrap(np.angle(spectrum[peak]))
    lags = np.mod(-np.diff(phase), 2 * np.pi) / (2 * np.pi) * period
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    time = np.arange(240) / env.fps
    for i in range(joints):
        left.plot(time, angles[300:540, i] / env.p.limit - 2.2 * i, color=f"C{i}")
    left.set(xlabel="seconds", yticks=[-2.2 * i for i in range(joints)], title="joint angles")
    left.set_yticklabels([f"joint {i}" for i in range(joints)])
    right.plot(range(joints), np.concatenate([[0], np.cumsum(lags)]), "o-")
    right.set(xlabel="joint, head to tail", ylabel="lag behind the head, control steps")
    right.set_title(f"{env.fps / period:.3f} Hz; mean lag {lags.mean():.1f} steps a joint")
    save_figure(figure, out, dpi=120)
    return np.asarray(lags)
