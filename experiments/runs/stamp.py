"""What a run was made with: versions, hardware, revision."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ... import __version__
from ...buffers.aside import write_text

PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "stable-baselines3", "safetensors")


def _revision() -> str | None:
    root = Path(__file__).parent.parent.parent
    try:
        out = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return out.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {}
    warp = {p: _version(p) for p in ("mujoco-warp", "warp-lang")}
    return {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda), **warp}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def hardware() -> dict[str, Any]:
    """Return versions, CPU and revision: what a result may depend on."""
    return {
        "reverie": __version__,
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {p: importlib.metadata.version(p) for p in PACKAGES},
        "platform": platform.platform(terse=True),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        **_gpu(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def measured(data: Mapping[str, Any], options: Any) -> str:
    """Return what was measured by some options, and on what, as the text of a JSON file."""
    settings = json.loads(json.dumps(asdict(options), default=str))
    return json.dumps({**data, "options": settings, "stamp": hardware()}, indent=1) + "\n"


def write(path: Path, stamp: dict[str, Any]) -> None:
    """Write stamp.json in one replace; a disk that refuses it leaves the old one."""
    write_text(path, json.dumps(stamp, indent=2) + "\n")
