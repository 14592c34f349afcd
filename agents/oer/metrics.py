"""Metrics of continual learning, as pure functions of the matrix of returns.

a[i, j]: mean return on task j after training task i, tasks in order, higher is better. Sources
and fixtures: the specification of OER, section 6; Continual World (Wolczyk et al. 2021,
arXiv:2105.10919); LIBERO (Liu et al. 2023, arXiv:2306.03310); lifelong-learning metrics (Baker,
New et al. 2023, arXiv:2301.07799).
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def normalise(a: Array, low: Array, high: Array) -> Array:
    """Return (a - low_j) / (high_j - low_j): 0 is random actions, 1 the task's single expert."""
    return (np.asarray(a, float) - low) / (np.asarray(high, float) - low)


def per(a: Array) -> float:
    """Return the performance, the mean over tasks after the last one."""
    return float(np.mean(a[-1]))


def old_tasks(a: Array) -> float:
    """Return the mean over all tasks but the last, after the last one: what replay is for."""
    return float(np.mean(a[-1, :-1]))


def forgetting(a: Array, divisor: str = "N-1") -> float:
    """Return mean_n a[n, n] - a[N, n]: lower is better. The authors' script divides by N."""
    n = len(a)
    if n < 2:
        return 0.0
    lost = float(np.sum(np.diag(a) - a[-1]))
    return lost / {"N-1": n - 1, "N": n}[divisor]


def bwt(a: Array) -> float:
    """Return backward transfer, minus the forgetting."""
    return -forgetting(a)


def forward_transfer(curves: Array, single: Array) -> float:
    """Return the mean of (AUC_i - AUC_i^single) / (1 - AUC_i^single), scores in [0, 1].

    `curves`, `single` [N, E]: each task's own score along its training, and a single expert's.
    """
    ours, alone = np.mean(curves, axis=1), np.mean(single, axis=1)
    return float(np.mean((ours - alone) / (1 - alone)))


def frozen_at_best(curve: Array) -> Array:
    """Return a curve that keeps its first maximum from there on (LIBERO)."""
    best = int(np.argmax(curve))
    return np.concatenate([curve[:best], np.full(len(curve) - best, curve[best])])


def libero(c: Array, fwt: Array) -> dict[str, float]:
    """Return LIBERO's FWT, NBT and AUC of successes c [K, K] and each task's FWT_k [K]."""
    k = len(c)
    nbt, auc = [], []
    for i in range(k):
        later = c[i + 1 :, i]
        nbt.append(float(np.mean(c[i, i] - later)) if len(later) else 0.0)
        auc.append((fwt[i] + later.sum()) / (k - i))
    return {"fwt": float(np.mean(fwt)), "nbt": float(np.mean(nbt)), "auc": float(np.mean(auc))}


def maintenance(blocks: Array, trained: int) -> float:
    """Return performance maintenance of a task: later evaluations less the one after its training.

    `blocks` [N]: its evaluation after each task; `trained`: the task's own place. 0 is kept.
    """
    later = np.asarray(blocks[trained + 1 :], float)
    return float(np.mean(later - blocks[trained])) if len(later) else 0.0


def transfer_contrast(before: float, after: float) -> float:
    """Return (after - before) / (after + before), 0 for none; values must be positive."""
    return (after - before) / (after + before)


def relative_performance(curve: Array, single: Array) -> float:
    """Return the ratio of the areas under a lifelong and a single-task curve, shorter length."""
    n = min(len(curve), len(single))
    return float(np.sum(curve[:n]) / np.sum(single[:n]))


def summary(a: Array) -> dict[str, float]:
    """Return the metrics of one matrix: per, forgetting, its other divisor, bwt, nbt."""
    zero = np.diag(a)
    old = {"old_tasks": old_tasks(a)} if len(a) > 1 else {}
    return {
        **old,
        "per": per(a),
        "forgetting": forgetting(a),
        "forgetting_n": forgetting(a, "N"),
        "bwt": bwt(a),
        "learned": float(np.mean(zero)),
        "nbt": libero(a, zero)["nbt"],
    }
