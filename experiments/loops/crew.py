"""The members of a population while it runs: who is alive, how they act, what each writes."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...agents import Agent, Evaluation, Metrics
from ...agents.api import State, no_memory
from ...agents.population import policy_of
from ...buffers import Card, Transitions, columns
from ..runs.member import Member
from ..runs.run import Run
from ..runs.stopping import Diverged
from .offline_session import scored

log = logging.getLogger("reverie")
_NOTHING = {"size": 0, "sha256": hashlib.sha256().hexdigest()}
# Of a member that had begun when its group was cut, before the first checkpoint of that.
FRESH: Mapping[str, Any] = {"rows": _NOTHING, "diverged": None, "bad": 0, "recent": []}


class Crew:
    """K members of one agent; a `Policy` for all their worlds, member by member.

    A member with a value that is not finite is stopped: its worlds stand still, it writes and
    counts no more, and the others do not notice.
    """

    initial_state = no_memory

    def __init__(self, method: str, configs: Sequence[Any], group: Path, agent: Agent) -> None:
        self.method, self.configs, self.group, self.agent = method, configs, group, agent
        self.members: list[Member] = []
        self.run: Run | None = None  # the group's, once it has begun
        self.card: Card | None = None  # of data, for scores
        self.on_host = True  # else nothing is read of the worlds' device between two log rows
        self.unread: Any = 0  # bad rows of each world since the last, there

    def open(self, kept: Sequence[Mapping[str, Any] | None] | None = None) -> None:
        """Open the members' directories, new ones or as the group's checkpoint kept them."""
        states = [None] * len(self.configs) if kept is None else kept
        for config, state in zip(self.configs, states, strict=True):
            self.members.append(Member(self.method, config, self.group, state))

    def begin(self, run: Run) -> None:
        """Let each member write its configuration and stamp; write what a kill cut short.

        From then on their policies are saved where the group is: its checkpoint comes first.
        """
        if not self.members:
            self.open([FRESH] * len(self.configs))
        self.run, run.after_save = run, self.save_policies
        for m in self.members:
            m.home.note(**run.home.stamp["notes"])
            m.begin(self.step)
        if self.step:
            self.save_policies()

    @property
    def step(self) -> int:
        """The step of the group."""
        return 0 if self.run is None else self.run.step

    @property
    def alive(self) -> Tensor:
        """Which members learn, [K] bool."""
        return torch.tensor([m.alive for m in self.members])

    def act(self, obs: Tensor, state: State = (), *, explore: bool = False) -> tuple[Tensor, State]:
        """Return the members' actions; those of a stopped one are 0.

        On a device what is not finite is 0 too: metrics tell at a log row who is to be stopped.
        """
        action, _ = self.agent.act(obs, explore=explore)
        own = action.view(len(self.members), -1)
        finite = own.isfinite().all(1)
        if not self.on_host:
            return own.masked_fill_(~finite[:, None], 0.0).view_as(action), state
        if not bool(finite.all()):
            self._stop(~finite.cpu(), "an action is not finite")
            own[~self.alive] = 0.0
        return action, state

    def require_finite(self, metrics: Metrics, batch: Transitions | None = None) -> None:
        """Stop the members with a metric that is not finite; Diverged where none is left."""
        if not metrics:
            return
        finite = torch.stack(list(metrics.values())).isfinite()  # [metrics, K]
        if bool(finite.all()):
            return
        for k in (~finite.all(0)).nonzero().flatten().tolist():
            names = [n for n, ok in zip(metrics, finite[:, k].tolist(), strict=True) if not ok]
            self._stop(
                torch.arange(len(self.members)) == k, f"{', '.join(names)} not finite", batch
            )

    def _stop(self, bad: Tensor, what: str, batch: Transitions | None = None) -> None:
        for k in (bad & self.alive).nonzero().flatten().tolist():
            acts = policy_of(self.agent.state_dict(), k)
            rows = {} if batch is None else columns(batch.map(lambda x, k=k: x[k]))  # type: ignore[misc]
            self.members[k].diverged(self.step, what, {**acts, "batch": rows})
            log.warning("%s: %s at step %d: stopped", self.members[k].path, what, self.step)
            if not bool(self.alive.any()):
                raise Diverged(f"every member of {self.group} diverged, the last at {self.step}")

    def count(self, ended: Sequence[tuple[int, float, int]], valid: Tensor) -> None:
        """Count the (world, return, length) of episodes that ended, and bad worlds [K N]."""
        if not self.on_host:
            self.unread = self.unread + ~valid
            return
        n = len(valid) // len(self.members)
        for world, total, length in ended:
            self.members[world // n].recent.append((total, length))
        if not bool(valid.all()):
            for m, own in zip(self.members, valid.view(-1, n), strict=True):
                m.bad += int((~own).sum())

    def read(self) -> None:
        """Bring the bad rows that were counted on a device to their members."""
        if isinstance(self.unread, Tensor):
            bad = self.unread.view(len(self.members), -1).sum(1).tolist()
            for m, number in zip(self.members, bad, strict=True):
                m.bad += number
        self.unread = 0

    def played(self, unread: Tensor | None = None) -> list[dict[str, float]]:
        """Return what each member's row says of its worlds, and forget the episodes in it.

        `unread` [3, K N]: what `UnreadReturns.read` gave, of worlds on a device.
        """
        self.read()
        rows = []
        for k, m in enumerate(self.members):
            if unread is None:
                number, total = len(m.recent), sum(r for r, _ in m.recent)
                length, m.recent = sum(n for _, n in m.recent), []
            else:
                own = unread.view(3, len(self.members), -1)[:, k]
                number, total, length = own.sum(1).tolist()
            mean = {"return": total / number, "length": length / number} if number else {}
            rows.append({"bad_worlds": m.bad, **mean})
        return rows

    def write_rows(
        self, metrics: Metrics, more: Sequence[Mapping[str, float]] | None = None
    ) -> dict[str, float]:
        """Write each member's row of what it learned, and `more`; return the group's own."""
        self.require_finite(metrics)
        rows = more or [{}] * len(self.members)
        for k, (m, own) in enumerate(zip(self.members, rows, strict=True)):
            if m.alive:
                learned: dict[str, Any] = {name: value[k] for name, value in metrics.items()}
                m.log(self.step, "train", {**learned, **own})
        alive = [r for m, r in zip(self.members, rows, strict=True) if m.alive]
        returns = [r["return"] for r in alive if "return" in r]
        mean = {"return": sum(returns) / len(returns)} if returns else {}
        return {"members": float(self.alive.sum()), **mean}

    def write_judged(self, judged: Evaluation) -> dict[str, float]:
        """Write each member's row of an evaluation [K E]; return the row of those alive."""
        k, keep = len(self.members), self.alive.numpy()
        returns, lengths = (x.reshape(k, -1, x.shape[-1]) for x in judged[:2])
        for i, m in enumerate(self.members):
            if m.alive:
                own = scored(Evaluation(returns[i], lengths[i]), self.card)
                m.log(self.step, "eval", own.row())
        return scored(Evaluation(returns[keep], lengths[keep]), self.card).row()

    def save_policies(self) -> None:
        """Write what each member's directory holds of a checkpoint: its policy."""
        state = self.agent.state_dict()
        for k, m in enumerate(self.members):
            if m.alive:
                m.save_policy(self.step, policy_of(state, k))

    def state_dict(self) -> dict[str, Any]:
        """Return what the group's checkpoint keeps of its members."""
        self.read()
        return {"members": [m.state_dict() for m in self.members]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Open the members' directories where the checkpoint left them."""
        self.open(state["members"])

    def close(self, error: BaseException | None) -> None:
        """Say in each member's stamp how it ended."""
        for m in self.members:
            m.close(error, self.step)
