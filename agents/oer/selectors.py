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
    member: bool = True  # MBES: predict by one member, False by the mean of all
    report: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Rows to select."""
        return min(self.budget, len(self.data))

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
    rows = torch.arange(len(p.data))
    return torch.cat([function(chunk) for chunk in torch.split(rows, CHUNK)])


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
                row[~free] = torch.inf
                j = int(row.argmin())
                if free[j]:
                    free[j] = False
                    chosen.append(j)
                if len(chosen) == p.size:
                    return torch.tensor(chosen)
    return torch.tensor(chosen)


def mbes(p: Pick, chains: int = 10, length: int = 1000) -> Tensor:
    """Model-based experience selection: follow the policy through the data, by the model.

    From an episode's first state on: predict where the policy's action leads, snap to the nearest
    state of the data, keep that row and go on from there, so that errors never compound. Where
    the models disagree (`gate` times their mean disagreement on the data) the chain follows the
    data's own next row. A chain ends at an episode's end and at a row that is already chosen.
    """
    act = _need(p.act, "mbes", "the policy")
    model = _need(p.model, "mbes", "dynamics models")
    data, batch = p.data, p.data.all
    states, mean, std = p.states()
    squares = states.square().sum(1)
    ends = data.ends
    some = torch.randperm(len(data), generator=p.generator)[: min(len(data), 2048)]
    usual = float(model.disagreement(batch.obs[some], batch.action[some]).mean())
    limit = float("inf") if p.gate is None else p.gate * usual
    if p.match == "model":
        follows = scored(p, lambda r: model.sample(batch.obs[r], batch.action[r], member=False)[0])
        targets = (follows - mean) / std
        squares = targets.square().sum(1)
    else:
        targets = states
    taken = torch.zeros(len(data), dtype=torch.bool)
    chosen: list[int] = []
    fired = asked = fruitless = 0
    snaps: list[float] = []
    firsts = torch.tensor([first for first, _ in data.episodes()])

    def take(rows: list[int]) -> list[int]:
        fresh = []
        for i in rows:
            if not taken[i] and len(chosen) < p.size:
                taken[i] = True
                chosen.append(i)
                fresh.append(i)
        return fresh

    while len(chosen) < p.size and fruitless < 3:
        before = len(chosen)
        pool = firsts if fruitless == 0 else torch.arange(len(data))
        starts = pool[torch.randperm(len(pool), generator=p.generator)][: max(chains, len(firsts))]
        for group in torch.split(starts, chains):
            at = take(group.tolist())
            for _ in range(length):
                if not at or len(chosen) >= p.size:
                    break
                rows = torch.tensor(at)
                action = act(batch.obs[rows])
                predicted, _ = model.sample(batch.obs[rows], action, member=p.member)
                sure = model.disagreement(batch.obs[rows], action) <= limit
                query = (predicted - mean) / std
                distance = squares - 2 * query @ targets.T
                if p.match == "model":
                    distance[:, ends] = torch.inf  # its successor would be another episode's
                nearest = distance.argmin(1)
                gap = (distance.gather(1, nearest[:, None])[:, 0] + query.square().sum(1)).clamp(0)
                snaps += gap.sqrt()[sure].tolist()
                if p.match == "model":
                    nearest = nearest + 1
                asked, fired = asked + len(at), fired + int((~sure).sum())
                following = torch.where(sure, nearest, rows + 1)
                at = take(following[~ends[rows]].tolist())
        fruitless = fruitless + 1 if len(chosen) == before else fruitless
    filled = p.size - len(chosen)
    if filled:
        free = (~taken).nonzero().flatten()
        rest = free[torch.randperm(len(free), generator=p.generator)[:filled]]
        chosen += rest.tolist()
    p.report.update(
        gate_fired=fired / max(asked, 1),
        snap=sum(snaps) / max(len(snaps), 1),
        filled=filled / max(p.size, 1),
    )
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
