"""The house: who may import whom, what imports stay light, how long files and functions are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("buffers", "envs", "agents", "experiments")
MAY_IMPORT = {
    "buffers": set(),
    "envs": set(),
    "agents": {"buffers", "envs"},
    "experiments": {"buffers", "envs", "agents", ""},
}
OPTIONAL = ("mujoco_warp", "warp", "minari", "ray", "wandb", "av", "envpool", "cpprb", "h5py")
FILES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]


def imported(path):
    """Yield (room of ours or None, top-level module, line, at module level) of every import."""
    tree = ast.parse(path.read_text())
    top = {id(n) for n in tree.body}
    depth = len(path.relative_to(ROOT).parts)  # levels up to the package root
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = (node.module or "").split(".")
            if node.level == depth:
                yield parts[0], None, node, id(node) in top
            elif node.level < depth:
                yield path.relative_to(ROOT).parts[0], None, node, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            yield None, (node.module or "").split(".")[0], node, id(node) in top
        elif isinstance(node, ast.Import):
            for name in node.names:
                yield None, name.name.split(".")[0], node, id(node) in top


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    room = path.relative_to(ROOT).parts[0]
    for target, module, node, top_level in imported(path):
        where = f"{path.relative_to(ROOT)}:{node.lineno}"
        assert module != "reverie", f"{where}: import our own rooms relatively"
        if target is not None and target != room:
            assert target in MAY_IMPORT[room], f"{where}: {room} must not import {target}"
            if room == "agents" and target == "envs":
                names = {a.name for a in node.names}
                assert names <= {"BatchEnv", "StepResult"}, f"{where}: types only"
        lazy = path.parent.name == "warp" and path.name != "__init__.py"  # loaded when asked for
        optional = top_level and module in OPTIONAL and not lazy
        assert not optional, f"{where}: import {module} where it is used"


def test_method_folders_do_not_import_each_other():
    folders = [p for p in (ROOT / "agents").iterdir() if (p / "__init__.py").exists()]
    for folder in folders:
        for path in folder.rglob("*.py"):
            for target, _, node, _ in imported(path):
                others = {f.name for f in folders} - {folder.name}
                assert target not in others, f"{path}:{node.lineno}"


def test_importing_the_package_and_the_buffers_needs_torch_and_numpy_only():
    code = (
        "import sys, torch, numpy, time; before = set(sys.modules); t = time.perf_counter()\n"
        "import reverie, reverie.buffers; print(time.perf_counter() - t)\n"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, modules = out.stdout.splitlines()
    foreign = set(modules.split()) & {
        "mujoco",
        "gymnasium",
        "stable_baselines3",
        "tyro",
        "rich",
        "diffusers",
        "scipy",
        "matplotlib",
        "tensorboard",
        "sklearn",
    }
    assert not foreign
    assert float(seconds) < 0.3


def test_nothing_under_envs_imports_gymnasiums_v5_classes():
    for path in (ROOT / "envs").rglob("*.py"):
        assert "gymnasium.envs" not in path.read_text(), path


def test_no_pickle_eval_or_exec():
    banned = {"eval", "exec"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in banned, f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = ast.unparse(node.func)
                assert call not in ("torch.load", "torch.save"), f"{path}:{node.lineno}"
        text = path.read_text()
        if path.name == "check.py" and path.parent.name == "envs":
            continue  # its check that an environment goes through pickle
        assert "import pickle" not in text and "allow_pickle=True" not in text, path
