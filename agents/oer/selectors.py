"""Which transitions a memory keeps: model-based experience selection and what it is compared with.

Every selector returns row numbers of the dataset, distinct, at most `budget` of them. Sources:
the specification's sections 4 and 5 (OER; Isele & Cosgun 2018 for the classical ones).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ...buffers import Dataset
from ..dynamics import DynamicsEnsemble
from ..playing import Stopped, never

T = TypeVar("T")
Act = Callable[[Tensor], Tensor]  # observations [B, O] to actions [B, A]
CHUNK = 8192  # rows at once, where all of the data is scored


@dataclass
class Pick:
    """What a selection may look at, and what it reports."""

    data: Dataset
    budget: int
    generator: torch.Generator
    act: Act | None = None  # the learned policy
    model: DynamicsEnsemble | None = None
    td_error: Callable[[Tensor], Tensor] | None = None  # rows [B] to |TD error| [B]
    visited: Tensor | None = None  # states [M, O] of real rollouts of the policy (the oracle)
    gate: float | None = 2.0  # MBES: lambda of the disagreement, None for no gate
    match: str = "state"  # MBES: to the predicted state, or "model" to predicted successors
    revisit: str = "next"  # MBES: where the nearest row is taken, the next free one, or "stop"
    walk: int = 0  # MBES: rows that the chains visit, of which a uniform share is kept
    stop: Callable[[], bool] = never  # asked now and then: Stopped, if it says so
    report: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Rows to select."""
        return min(self.budget, len(self.data))

    def go_on(self) -> None:
        """Raise Stopped if the selection was told to stop."""
        if self.stop():
            raise Stopped("a selection was told to stop")

    def states(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the z-scored states [M, O], and their mean and scale."""
        mean, std = self.data.moments()
        return (self.data.all.obs - mean) / std, mean, std


def by_episodes(p: Pick, score: Tensor) -> Tensor:
    """Return rows of whole episodes, highest score [E] first, until the budget is full."""
    spans = p.data.episodes()
    order = torch.argsort(score, descending=True, stable=True).tolist()
    rows = torch.cat([torch.arange(*spans[e]) for e in order])
    return rows[: p.size]


def highest(p: Pick, score: Tensor) -> Tensor:
    """Return the rows of the highest scores [M]."""
    return torch.argsort(score, descending=True, stable=True)[: p.size]


def scored(p: Pick, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a score [M] of every row, computed in chunks."""
    parts = []
    for chunk in torch.split(torch.arange(len(p.data)), CHUNK):
        p.go_on()
        parts.append(function(chunk))
    return torch.cat(parts)


def episode_means(p: Pick, score: Tensor) -> Tensor:
    """Return the mean score [E] of every episode's rows."""
    return torch.stack([score[a:b].mean() for a, b in p.data.episodes()])


def random_transition(p: Pick) -> Tensor:
    """Uniform transitions without replacement."""
    return torch.randperm(len(p.data), generator=p.generator)[: p.size]


def random_episode(p: Pick) -> Tensor:
    """Uniform whole episodes."""
    return by_episodes(p, torch.rand(len(p.data.episodes()), generator=p.generator))


def reward(p: Pick) -> Tensor:
    """Episodes of the highest mean reward."""
    return by_episodes(p, episode_means(p, p.data.all.reward))


def match(p: Pick) -> Tensor:
    """Transitions whose action is nearest to the learned policy's: smallest mean squared gap."""
    act = _need(p.act, "match", "the policy")
    batch = p.data.all
    return highest(p, scored(p, lambda r: -(act(batch.obs[r]) - batch.action[r]).square().mean(-1)))


def surprise(p: Pick) -> Tensor:
    """Transitions of the largest TD error."""
    return highest(p, scored(p, _need(p.td_error, "surprise", "a critic")))


def supervised(p: Pick) -> Tensor:
    """Episodes of the largest mean TD error: the other reading of the papers' row."""
    error = scored(p, _need(p.td_error, "supervised", "a critic"))
    return by_episodes(p, episode_means(p, error))


def model_likelihood(p: Pick) -> Tensor:
    """Transitions that the dynamics models find likeliest."""
    model = _need(p.model, "model_likelihood", "dynamics models")
    return highest(p, scored(p, lambda r: model.log_prob(p.data.gather(r))))


def coverage(p: Pick, share: float = 0.05, sample: int = 2000) -> Tensor:
    """Transitions with the fewest neighbours in z-scored states.

    Neighbours are counted among `sample` random rows, within the distance that `share` of their
    pairs have: an estimate, and no radius that would have to fit every body.
    """
    states, _, _ = p.states()
    among = states[torch.randperm(len(states), generator=p.generator)[:sample]]
    pairs = torch.cdist(among[:500], among)
    reach = float(pairs.flatten().kthvalue(max(1, int(share * pairs.numel()))).values)

    def crowd(rows: Tensor) -> Tensor:
        return -(torch.cdist(states[rows], among) < reach).float().sum(1)

    noise = torch.rand(len(states), generator=p.generator)  # ties are broken at random
    return highest(p, scored(p, crowd) + 0.5 * noise)


def online(p: Pick) -> Tensor:
    """The oracle: rows nearest to states that real rollouts of the policy visited."""
    visited = _need(p.visited, "online", "real rollouts")
    states, mean, std = p.states()
    free = torch.ones(len(states), dtype=torch.bool)
    chosen: list[int] = []
    order = torch.randperm(len(visited), generator=p.generator)
    squares = states.square().sum(1)
    while len(chosen) < p.size:
        for chunk in torch.split(visited[order], 256):
            query = (chunk - mean) / std
            distance = squares - 2 * query @ states.T
            for row in distance:
                p.go_on()
                row[~free] = torch.inf
                j = int(row.argmin())
                if free[j]:
                    free[j] = False
                    chosen.append(j)
                if len(chosen) == p.size:
                    return torch.tensor(chosen)
    return torch.tensor(chosen)


def mbes(p: Pick, chains: int = 10) -> Tensor:
    """Model-based experience selection: follow the policy through the data, by the model.

    From an episode's first state on: predict where the policy's action leads, snap to the nearest
    state of the data, keep that row and go on from there, so that errors never compound. Where
    the models disagree (`gate` times their mean disagreement on the data) the chain follows the
    data's own next row. With `revisit="next"` taken rows are no candidates, and as many chains run
    as whole episodes are wanted; with "stop" (the authors' code) a chain ends at a taken row.
    Where `walk` is more than the budget, the chains visit so many rows, of which some are kept.
    """
    act = _need(p.act, "mbes", "the policy")
    model = _need(p.model, "mbes", "dynamics models")
    data, batch = p.data, p.data.all
    states, mean, std = p.states()
    ends = data.ends
    some = torch.randperm(len(data), generator=p.generator)[: min(len(data), 2048)]
    usual = float(model.disagreement(batch.obs[some], batch.action[some]).mean())
    limit = float("inf") if p.gate is None else p.gate * usual
    targets, shift = states, 0
    barred = torch.zeros(len(data))  # added to the distances: inf for no candidate
    if p.match == "model":
        follows = scored(p, lambda r: model.predict(batch.obs[r], batch.action[r], member=False)[0])
        targets, shift = (follows - mean) / std, 1  # what is kept is the row after the match
        barred[ends] = torch.inf  # whose successor would be another episode's
    squares = targets.square().sum(1)
    episodes = data.episodes()
    firsts = torch.tensor([first for first, _ in episodes])
    length = max(end - first for first, end in episodes)
    wanted = min(max(p.size, p.walk), len(data))
    on = p.revisit == "next"
    if on:
        chains = max(1, round(wanted / length))
    free = torch.ones(len(data), dtype=torch.bool)
    chosen: list[int] = []
    starts = fired = asked = 0
    snaps: list[float] = []

    def take(i: int) -> bool:
        """Keep a row, if it is free and more are wanted; return whether."""
        if not free[i] or len(chosen) == wanted:
            return False
        free[i] = False
        chosen.append(i)
        if on and i >= shift:
            barred[i - shift] = torch.inf
        return True

    while len(chosen) < wanted:
        p.go_on()
        pool = firsts[free[firsts]] if free[firsts].any() else free.nonzero().flatten()
        drawn = pool[torch.randperm(len(pool), generator=p.generator)][:chains]
        at = [i for i in drawn.tolist() if take(i)]
        starts += len(at)
        for _ in range(length - 1):
            p.go_on()
            if not on:
                at = [i for i in at if not ends[i]]
            if not at or len(chosen) == wanted:
                break
            obs = batch.obs[at]
            action = act(obs)
            query = (model.predict(obs, action, member=True)[0] - mean) / std
            sure = (model.disagreement(obs, action) <= limit).tolist()
            distances = squares - 2 * query @ targets.T
            asked, fired = asked + len(at), fired + sure.count(False)
            before, at = at, []
            for i, known, q, distance in zip(before, sure, query, distances, strict=True):
                following = i + 1
                if known:
                    gap, nearest = (distance + barred).min(0)
                    if gap.isinf():  # no candidate is left
                        continue
                    following = int(nearest) + shift
                    snaps.append(float((gap + q.square().sum()).clamp(0).sqrt()))
                if (known or not ends[i]) and following < len(data) and take(following):
                    at.append(following)
    p.report.update(
        gate_fired=fired / max(asked, 1),
        snap=sum(snaps) / max(len(snaps), 1),
        starts=starts / max(wanted, 1),
    )
    if wanted > p.size:
        order = torch.randperm(wanted, generator=p.generator)[: p.size]
        return torch.tensor(chosen)[order]
    return torch.tensor(chosen)


def _need(value: T | None, who: str, what: str) -> T:
    if value is None:
        raise ValueError(f"the selector {who} needs {what}")
    return value


SELECTORS: dict[str, Callable[[Pick], Tensor]] = {
    "random": random_transition,
    "random-episode": random_episode,
    "reward": reward,
    "match": match,
    "surprise": surprise,
    "supervised": supervised,
    "model": model_likelihood,
    "coverage": coverage,
    "mbes": mbes,
    "online": online,
}
