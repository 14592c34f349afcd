"""A diffusion model of transitions: fit to packed rows an update at a time, then sampled."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ...buffers import Layout
from ...buffers.transitions import NEXT_KNOWN
from ..api import Metrics
from ..networks import initialise
from ..playing import never
from ..seeding import generator
from ..training import adam, digest, facts, flatten, lagging, pack, unpack
from .codec import Codec, Rules, check_rows, constant
from .config import DiffusionConfig
from .edm import EMA_EVERY, ema_decay, errors, noise_levels
from .samplers import SAMPLERS

if TYPE_CHECKING:
    from .denoiser import Denoiser

log = logging.getLogger("reverie")

BETAS = (0.9, 0.99)
LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
JUDGED = 4096  # draws of row, level and noise in a held-out loss


class Diffusion:
    """SynthER's generator (Lu et al. 2023): `begin`, `fit_step` until `done`, `generate`.

    `layout` is that of the rows it is fit to; extra columns are not modelled. Samples come from
    the moving average of the weights; with a held-out share, from the best one of the fit.
    """

    saved = ("net", "average", "optimizer", "codec", "generator", "best", "best_loss", "updates",
        "total", "stale", "fits", "rows", "digest", "seed")  # fmt: skip

    def __init__(
        self,
        layout: Layout,
        config: DiffusionConfig | None = None,
        *,
        rules: Rules | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.config = c = config or DiffusionConfig()
        c.check()
        self.layout, self.seed, self.device = layout, seed, torch.device(device)
        self.codec = Codec(layout, c, rules, device)
        self.generator = generator(seed, "diffusion", device)
        self.net = self.make_network()
        self._draw_weights("diffusion weights")
        self._flat = flatten(self.net)
        self.average, self._average_flat = lagging(self.net)
        self.optimizer = adam(self._flat, c.lr, BETAS)
        self.best, self.best_loss = self._flat.detach().clone(), self._number(math.inf)
        self.updates = self.total = 0  # of this fit: done, planned
        self.stale = 0  # looks since the best held-out loss
        self.fits = 0  # begun
        self.rows = self.digest = 0  # of this fit: how many, and which
        self._parts: tuple[Tensor, Tensor] | None = None  # features to learn from, held out
        self._look: tuple[Tensor, Tensor, Tensor] | None = None  # what a held-out loss draws

    def make_network(self) -> "Denoiser":
        """Return a network of the settings; its weights are still to be drawn or loaded."""
        from .denoiser import Denoiser

        c = self.config
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            net = Denoiser(self.codec.dim, c.width, c.depth, c.noise_width)
        return cast("Denoiser", net.to(self.device))

    def _draw_weights(self, stream: str) -> None:
        draws = generator(self.seed, stream)
        initialise(self.net, draws)
        self.net.frequencies.copy_(torch.randn(8, generator=draws))

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, device=self.device)

    def begin(self, rows: Tensor, updates: int | None = None) -> None:
        """Start a fit to packed rows [n, width]; `updates` of it instead of the setting's.

        Statistics are taken anew. The weights go on from the last fit's average (`warm`), as they
        are: a first layer corrected for the new statistics began no better where these had moved
        a little, and worse where they had moved a lot (HalfCheetah, 1,000 to 5,000 rows). Or they
        are drawn anew. Raises ValueError for rows that cannot be fit.
        """
        rows, c = self._usable(rows), self.config
        check_rows(rows, self.layout, c.batch_size)
        if (same := constant(rows, self.layout)) and not self.fits:
            log.warning(
                "diffusion: %s never changed in %s rows, and will not in generated ones",
                ", ".join(same[:4]) + (f" and {len(same) - 4} more" if len(same) > 4 else ""),
                f"{len(rows):,}",
            )
        self.codec.fit(rows)
        if self.fits and c.warm:
            with torch.no_grad():
                self._flat.copy_(self._average_flat)
        elif self.fits:
            self._draw_weights(f"diffusion weights {self.fits}")
            self.average.frequencies.copy_(self.net.frequencies)
        with torch.no_grad():
            self._average_flat.copy_(self._flat)
        self.optimizer = adam(self._flat, c.lr, BETAS)
        self.updates, self.total, self.stale = 0, updates or c.updates, 0
        self.best_loss = self._number(math.inf)
        self.fits, self.rows, self.digest = self.fits + 1, len(rows), digest(rows)
        self._parts, self._look = self._features_of(rows), None

    @property
    def done(self) -> bool:
        """Whether the fit is over: all its updates are done, or it no longer got better."""
        late = self.config.patience and self.stale >= self.config.patience
        return self.updates >= self.total or bool(late)

    def fit_step(self, rows: Tensor) -> Metrics:
        """Take one update on the rows that `begin` was given; return `loss` and, when it is due,
        `held_out_loss`. Raises ValueError after the fit's end and for other rows.
        """
        if self.done:
            raise ValueError(f"the fit is over after {self.updates} updates: begin another")
        train, _ = self._split(rows)
        c, draws = self.config, self.generator
        pick = torch.randint(len(train), (c.batch_size,), generator=draws, device=self.device)
        x = train[pick]
        sigma = noise_levels(len(x), draws)
        noise = torch.randn(x.shape, generator=draws, device=self.device)
        loss = errors(self.net, x, sigma, noise).mean()
        lr = c.lr * (1 + math.cos(math.pi * self.updates / self.total)) / 2
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._flat, 1.0)
        self.optimizer.step()
        if self.updates % EMA_EVERY == 0:
            self._follow(ema_decay(self.updates))
        self.updates += 1
        metrics = {"loss": loss.detach()}
        if c.held_out and (self.updates % c.judge_every == 0 or self.updates == self.total):
            metrics["held_out_loss"] = self._judge(rows)
        return metrics

    @torch.no_grad()
    def _follow(self, decay: float | None) -> None:
        if decay is None:
            self._average_flat.copy_(self._flat)
        else:
            self._average_flat.lerp_(self._flat, 1 - decay)

    @torch.no_grad()
    def _judge(self, rows: Tensor) -> Tensor:
        """Return the held-out loss; keep the best weights, and return to them at the fit's end."""
        if self._look is None:  # the same draws at every look of a fit, so that looks compare
            draws, (_, held) = generator(self.seed, f"look {self.fits}"), self._split(rows)
            pick = torch.randint(len(held), (JUDGED,), generator=draws)
            noise = torch.randn(JUDGED, self.codec.dim, generator=draws)
            sigma = noise_levels(JUDGED, draws)
            self._look = held[pick.to(self.device)], sigma.to(self.device), noise.to(self.device)
        loss = errors(self.average, *self._look).mean()
        better = bool(loss < self.best_loss)
        self.stale = 0 if better else self.stale + 1
        if better:
            self.best, self.best_loss = self._average_flat.detach().clone(), loss
        elif self.done and self.best_loss.isfinite():  # else it diverged, and says so
            self._average_flat.copy_(self.best)
        return loss

    def _usable(self, rows: Tensor) -> Tensor:
        """Return the rows of which the data tells the successor."""
        if rows.ndim != 2 or rows.shape[1] != self.layout.width:
            check_rows(rows, self.layout, 0)
        if NEXT_KNOWN in self.layout.extra:
            rows = rows[rows[:, self.layout.slices[NEXT_KNOWN]] > 0]
        return rows

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the rows to learn from and of those held out."""
        if self._parts is None:  # loaded
            rows = self._usable(rows)
            if len(rows) != self.rows or digest(rows) != self.digest:
                raise ValueError(
                    f"the fit began with {self.rows} rows and goes on with {len(rows)} others: "
                    "give the same ones"
                )
            self._parts = self._features_of(rows)
        return self._parts

    def _features_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        features, held = self.codec.encode(rows), self.held(rows).to(self.device)
        if bool(held.all()):
            raise ValueError(
                f"all {len(rows)} rows are alike, or so many that none is left to learn from: "
                "collect others, or give held_out=0"
            )
        return features[~held], features[held]

    def held(self, rows: Tensor) -> Tensor:
        """Return which of packed rows [n, width] no fit of this model learns from [n]."""
        o, a = self.layout.obs_dim, self.layout.act_dim
        return held_out(rows[:, : 2 * o + a + 1], self.config.held_out)

    @property
    def about(self) -> dict[str, Any]:
        """What the model was fit on, and how: numbers and text."""
        return facts(self)

    def generate(self, n: int, batch: int = 2048, stop: Callable[[], bool] = never) -> Tensor:
        """Return n generated packed rows [n, width of `codec.out`], `batch` at a time.

        Raises ValueError before the first fit, FloatingPointError where one is not finite, and
        Stopped, with draws of the generator gone, when `stop` says so.
        """
        if not self.fits:
            raise ValueError("this generator was fit to nothing: begin(rows), then fit_step(rows)")
        parts = [self.codec.decode(x) for x in self._features(n, batch, stop)]
        rows = torch.cat(parts) if parts else torch.zeros(0, self.codec.out.width)
        if not bool(torch.isfinite(rows).all()):
            raise FloatingPointError(
                f"{int((~torch.isfinite(rows).all(1)).sum())} of {n} generated rows are not "
                "finite: the fit diverged; look at its loss, or give a smaller lr"
            )
        return rows

    def _features(self, n: int, batch: int, stop: Callable[[], bool]) -> Iterator[Tensor]:
        c, sample = self.config, SAMPLERS[self.config.sampler]
        for at in range(0, n, batch):
            shape, ends = (min(batch, n - at), self.codec.dim), (c.sigma_max, c.sigma_min)
            yield sample(self.average, shape, self.generator, c.levels, *ends, stop)

    @torch.no_grad()
    def loss_by_level(self, rows: Tensor, seed: int = 0) -> dict[float, float]:
        """Return the loss of packed rows at each of `LEVELS`, e.g. of rows that no fit saw.

        1 is what a network that learned nothing has; at small noise it stays near 1 for all.
        """
        x, draws = self.codec.encode(self._usable(rows)), generator(seed, "loss by level")
        x = x[torch.randint(len(x), (JUDGED,), generator=draws).to(self.device)]
        noise = torch.randn(x.shape, generator=draws).to(self.device)
        return {
            level: float(errors(self.average, x, torch.full_like(x[:, 0], level), noise).mean())
            for level in LEVELS
        }

    def recall(self, about: Mapping[str, Any]) -> None:
        """Take over from `about` what the model was fit on: its weights are loaded elsewhere."""
        self.fits, self.updates, self.rows = (int(about[k]) for k in ("fits", "updates", "rows"))
        self.total, self.digest = self.updates, int(about["rows_sha256"], 16)
        loss = about["held_out_loss"]
        self.best_loss = self._number(math.inf if loss is None else float(loss))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs but the rows."""
        return pack(self, self.saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`, in a model of the same layout and settings."""
        unpack(self, self.saved, state)
        self._parts = self._look = None


def held_out(rows: Tensor, share: float) -> Tensor:
    """Return which of rows [n, d] are held out [n], told by each row's own bits.

    So a row is held out in every fit that meets it, wherever it lies in a ring, and a copy of it is
    too. One at least is, unless share is 0.
    """
    hashed = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for column in rows.float().contiguous().view(torch.int32).unbind(1):
        hashed = (hashed ^ column) * 0x9E3779B97F4A7C1  # wraps
        hashed = hashed ^ (hashed >> 29)
    place = hashed >> 16 & 0xFFFFFFFF
    out = place < share * 2**32
    if share and len(rows) and not bool(out.any()):
        out[place.argmin()] = True
    return out
