"""A fitted world model as a folder: weights and statistics as safetensors, settings as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ...buffers.aside import write_text
from ...buffers.shards import file_digest
from ...buffers.untrusted import READING, require_room, small_text, tensors_in, told
from .config import ModelConfig
from .models import Model, build

CARD, WEIGHTS = "model.json", "model.safetensors"


def weights_of(model: Model) -> dict[str, Tensor]:
    """Return what a model predicts by: its weights and statistics."""
    return {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}


def numbers(obs_dim: int, act_dim: int, config: ModelConfig) -> int:
    """Return about how many numbers the settings ask for, before any is allocated."""
    members = config.members if config.kind == "ensemble" else 1
    layers = pairwise([obs_dim + act_dim, *config.hidden, 2 * obs_dim])
    return members * sum(a * b for a, b in layers) + config.fixed * sum(config.hidden)


def save(model: Model, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a model into a folder; `about`: what it was fitted on, text and numbers."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = folder / CARD
    card.unlink(missing_ok=True)  # it is written last: then the model is there
    save_file({k: v.contiguous().clone() for k, v in weights_of(model).items()}, folder / WEIGHTS)
    written = {
        "obs_dim": model.obs_dim,
        "act_dim": model.act_dim,
        "config": asdict(model.config),
        "about": dict(about or {}),
        "sha256": file_digest(folder / WEIGHTS),
    }
    write_text(card, json.dumps(written, indent=1) + "\n")


def load(folder: str | Path) -> tuple[Model, dict[str, Any]]:
    """Return the model that `save` wrote, to dream in, and what it was fitted on.

    Raises FileNotFoundError, and ValueError for a damaged or foreign folder.
    """
    folder = Path(folder)
    for name in (CARD, WEIGHTS):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing: a world model's folder has it")
    try:
        given = json.loads(small_text(folder / CARD))
        settings: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given["config"].items()
        }
        config, about = ModelConfig(**settings), dict(given["about"])
        config.check()
        held, size = tensors_in(folder / WEIGHTS), (folder / WEIGHTS).stat().st_size
        shape = int(given["obs_dim"]), int(given["act_dim"])
        require_room(4 * numbers(*shape, config), size)
        model = build(*shape, config)
        if {k: ("F32", tuple(v.shape)) for k, v in weights_of(model).items()} != held:
            raise ValueError(f"{WEIGHTS} holds other tensors than {CARD} says")
        if file_digest(folder / WEIGHTS) != given["sha256"]:
            raise ValueError(f"{WEIGHTS} does not match the sha256 in {CARD}: it is damaged")
        model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    except READING as error:
        raise ValueError(f"{folder} is not a readable world model: {told(error)}") from error
    return model, about
