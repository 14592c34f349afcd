"""The house: who may import whom, what imports stay light, how long files and functions are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from reverie.experiments.methods import METHODS

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


# Floors of each room, from the ground up: an import goes to the same floor or to one below.
FLOORS = {
    "buffers": [],
    "envs": [
        ("api", "errors", "task", "contexts", "families", "physics", "random", "spaces", "worlds"),
        ("shown",),
        ("tasks", "native", "warp", "gym"),
        ("make", "check", "reality", "__init__"),
    ],
    "agents": [
        ("norms", "spectral", "versions"),
        (
            "api",
            "seeding",
            "population",
            "losses",
            "cloning",
            "networks",
            "actors",
            "controllers",
            "acting",
            "unread",
        ),
        ("playing", "search", "training", "graphs"),
        ("sac", "td3", "sb3", "dynamics", "candidates"),
        tuple(p.parent.name for p in (ROOT / "agents").glob("*/__init__.py")),
        ("__init__",),
    ],
    "experiments": [
        ("methods", "refusals", "__init__"),
        ("runs",),
        ("loops",),
        ("studies",),
        ("looking", "bench"),
        tuple(m.module.removeprefix(".") for m in METHODS.values()),
        ("cli", "demo"),
    ],
}


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


def file_of(parts):
    """Return the file of a module of ours, given as parts of its path; None if it is none."""
    for place in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")):
        if parts and place.exists():
            return place
    return None


def arrows():
    """Return the files that each file imports, wherever in it the import stands."""
    out = {}
    for path in FILES:
        out[path] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.ImportFrom) and node.level):
                continue
            base = path.relative_to(ROOT).parts[: -node.level]
            base = [*base, *(node.module.split(".") if node.module else [])]
            for name in node.names:
                target = file_of([*base, name.name]) or file_of(base)
                if target is not None and target != path:
                    out[path].add(target)
    return out


def circles(graph):
    """Return the groups of files that import each other, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(group)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_import_circle():
    named = [[str(p.relative_to(ROOT)) for p in group] for group in circles(arrows())]
    assert not named
    assert circles({1: {2}, 2: {3}, 3: {1}, 4: {1}}) == [[1, 2, 3]]  # and the search finds one


def test_no_arrow_upward_within_a_room():
    for path, targets in arrows().items():
        room, *rest = path.relative_to(ROOT).parts
        floor = {name: i for i, names in enumerate(FLOORS[room]) for name in names}
        for target in targets:
            theirs = target.relative_to(ROOT).parts
            if theirs[0] != room or not floor:
                continue
            here, there = rest[0].removesuffix(".py"), theirs[1].removesuffix(".py")
            assert here in floor, f"{room}/{here} stands on no floor: add it to FLOORS"
            assert floor[there] <= floor[here], f"{path.relative_to(ROOT)} imports {theirs}"


def test_only_the_table_finds_code_by_its_name():
    for path in (ROOT / "experiments").rglob("*.py"):
        if path.name not in ("methods.py", "__init__.py"):
            assert "importlib.import_module" not in path.read_text(), path


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
                contract = {"BatchEnv", "StepResult", "Contexts", "check_action"}
                assert names <= contract, f"{where}: the contract only"
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


def test_every_name_at_the_top_is_there_and_typed():
    """Each lazy name loads, is listed, and is imported for type checkers from where it lies."""
    import reverie

    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {a.name: f.module for f in block.body for a in f.names}
    assert typed == reverie._HOME and set(reverie.__all__) == {*typed, "__version__"}
    for name in typed:
        assert callable(getattr(reverie, name))
    with pytest.raises(AttributeError, match="it has"):
        reverie.nothing
