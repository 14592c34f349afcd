"""A generator as a folder: weights as `diffusers` saves them, statistics and settings as JSON."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...buffers import Layout
from ...buffers.aside import write_text
from ...buffers.shards import file_digest
from ...buffers.untrusted import READING, require_room, small_text, tensors_in, told
from .codec import Rules
from .config import DiffusionConfig
from .diffusion import Diffusion

if TYPE_CHECKING:
    from .denoiser import Denoiser

CARD, WEIGHTS, NETWORK = "generator.json", "diffusion_pytorch_model.safetensors", "config.json"


def save(model: Diffusion, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the weights that are sampled from, the statistics, and what it was fit on.

    `about`: more to say of that, e.g. the environment; text and numbers. An optimiser and a
    generator's place are not in it: `state_dict` has them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / CARD
    card.unlink(missing_ok=True)  # it is written last: then the generator is there
    plain = model.make_network()  # not laid out as views of one vector
    plain.load_state_dict(model.average.state_dict())
    plain.save_pretrained(folder)
    layout = model.layout
    written = {
        "layout": {
            "obs_dim": layout.obs_dim, "act_dim": layout.act_dim, "extra": dict(layout.extra)
        },
        "config": asdict(model.config),
        "features": model.codec.names(),
        "mean": model.codec.mean.tolist(),  # a float32 goes through JSON exactly
        "std": model.codec.std.tolist(),
        "about": {**model.about, **(about or {})},
        "sha256": file_digest(folder / WEIGHTS),
    }  # fmt: skip
    write_text(card, json.dumps(written, indent=1) + "\n")


def load(
    folder: str | Path,
    *,
    rules: Rules | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> tuple[Diffusion, dict[str, Any]]:
    """Return the generator that `save` wrote, to be sampled from, and what it was fit on.

    `rules`: of the same task as when it was fit. Raises FileNotFoundError, and ValueError for a
    damaged or foreign folder, and where the rules are others.
    """
    folder = Path(folder)
    for name in (CARD, WEIGHTS, NETWORK):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing: a generator's folder has it")
    try:
        given = json.loads(small_text(folder / CARD))
        layout = Layout(**given["layout"])
        config = DiffusionConfig(**given["config"])
        config.check()
        features, about = list(given["features"]), dict(given["about"])
        statistics = {k: torch.tensor(given[k], dtype=torch.float32) for k in ("mean", "std")}
        if any(x.shape != (len(features),) for x in statistics.values()):
            raise ValueError(
                f"{CARD} has not one mean and std for each of {len(features)} features"
            )
        network = _network(folder, config, len(features))
        if file_digest(folder / WEIGHTS) != given["sha256"]:
            raise ValueError(f"{WEIGHTS} does not match the sha256 in {CARD}: it is damaged")
        model = Diffusion(layout, config, rules=rules, device=device, seed=seed)
        model.recall(about)
    except READING as error:
        raise ValueError(f"{folder} is not a readable generator: {told(error)}") from error
    if (names := model.codec.names()) != features:
        missing, more = sorted(set(features) - set(names)), sorted(set(names) - set(features))
        raise ValueError(
            f"{folder} models {features}; of these the rules given leave out {missing}, and they "
            f"do not give {more}: give rules_of(env) of the task that it was fit on"
        )
    model.codec.load_state_dict(statistics)
    for net in (model.net, model.average):
        net.load_state_dict(network.state_dict())
    return model, about


def _network(folder: Path, config: DiffusionConfig, features: int) -> "Denoiser":
    """Return the network in a folder, after a look at the sizes that its two files declare."""
    from .denoiser import Denoiser

    want = {
        "features": features, "width": config.width, "depth": config.depth,
        "noise_width": config.noise_width,
    }  # fmt: skip
    said = json.loads(small_text(folder / NETWORK))
    if {name: said.get(name) for name in want} != want:
        raise ValueError(f"{NETWORK} says {said}, {CARD} {want}")
    held, size = tensors_in(folder / WEIGHTS), (folder / WEIGHTS).stat().st_size
    require_room(4 * config.width**2 * config.depth, size)
    with torch.device("meta"):
        shapes = {k: ("F32", tuple(v.shape)) for k, v in Denoiser(**want).state_dict().items()}
    if held != shapes:
        other = [k for k in {*held, *shapes} if held.get(k) != shapes.get(k)]
        raise ValueError(f"{WEIGHTS} holds other tensors than its settings say: {other[:3]}")
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it warns of a missing accelerate
    with torch.random.fork_rng(devices=[]):
        return Denoiser.from_pretrained(  # type: ignore[no-any-return]
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
