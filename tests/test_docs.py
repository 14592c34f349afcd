"""Every Python block of the docs runs, and every command in them parses and runs, made short.

A block that begins with `# mine/agent.py` is that file: the other blocks and the commands of its
page find it.
"""

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from made import same_end

from reverie.agents import Agent, evaluate
from reverie.agents.playing import EVAL_SEED
from reverie.buffers import Layout, ReplayBuffer, Source
from reverie.envs import make
from reverie.experiments import cli, load_policy, load_run
from reverie.experiments.runs.checkpoint import list_checkpoints

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUIET = ["--eval-episodes", "2", "--threads", "1", "--no-progress", "--no-tensorboard",
         "--max-episode-steps", "50"]  # fmt: skip
OFF_POLICY = ["--steps", "40", "--learning-starts", "20", "--batch-size", "8", "--hidden", "16",
              "16", "--utd", "0.5", *QUIET]  # fmt: skip
OFFLINE = ["--steps", "40", "--batch-size", "8", "--hidden", "16", "16", *QUIET]
SHORT = {
    "bc": OFFLINE,
    "td3bc": OFFLINE,
    "iql": OFFLINE,
    "rebrac": OFFLINE,
    "oer": [
        "--steps",
        "60",
        "--task-steps",
        "20",
        "--transitions",
        "200",
        "--budget",
        "20",
        "--dynamics.steps",
        "10",
        *QUIET,
    ],
    "sac": OFF_POLICY,
    "td3": OFF_POLICY,
    "synther": [
        *("--steps", "60", "--learning-starts", "20", "--refit-every", "40", "--synthetic", "50"),
        *("--diffusion.updates", "5", "--diffusion.batch-size", "8", "--utd", "0.5", *QUIET),
    ],
    "ncap": ["--steps", "40", "--episode-steps", "5", "--es.population", "4", *QUIET],
    "dreamland": [
        *("--steps", "60", "--collect", "60", "--model.updates", "5", "--model.batch-size", "8"),
        *(
            "--es.population",
            "4",
            "--episodes",
            "1",
            "--dream.horizon",
            "5",
            "--select-every",
            "20",
        ),
        *("--select-episodes", "2", "--learning-starts", "20", *QUIET),
    ],
    "mbtl": ["--steps", "5", *QUIET[:-2]],
    "quality": ["--rows", "100"],
    "check-env": ["--steps", "40"],
    "watch": ["--steps", "10"],
    "matrix": [
        *("--steps", "20", "--trials", "1", "--middle-trials", "0", "--learning-starts", "10"),
        *("--select-every", "20", "--context", "gear=1,2", *QUIET),
    ],
    "curriculum": OFF_POLICY,
    "mine.ddpg": OFF_POLICY,
    "mine.augmented": OFF_POLICY,
    "mine.robust": [x for x in OFFLINE if x not in ("--hidden", "16")],
    "ppo": ["--steps", "40", "--num-envs", "2", "--n-steps", "10", "--batch-size", "10", *QUIET],
}


OWN = {
    "mine.ddpg": "own_agent.md",
    "mine.augmented": "own_source.md",
    "mine.robust": "own_network.md",
}


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.S)


def shown(value):
    return str(getattr(value, "name", value))[:12]


def write_files(page, folder):
    """Write the files that a page shows, as a package that can be imported; return their names."""
    names = []
    for text in blocks(page, "(?:python|toml)"):
        if named := re.match(r"# (\S+/\S+\.(?:py|toml))\n", text):
            path = folder / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            names.append(named[1])
    return names


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder in which one stands and whose packages can be imported, until it is over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reverie.envs.check.PATIENCE", 1100)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    for name in [m for m in sys.modules if m.partition(".")[0] == "mine"]:
        del sys.modules[name]


PYTHON = [(p, i, b) for p in PAGES for i, b in enumerate(blocks(p, "python"))]
SHELL = [(p, i, b) for p in PAGES for i, b in enumerate(blocks(p, "bash"))]


@pytest.mark.parametrize(("page", "i", "code"), PYTHON, ids=shown)
def test_python_blocks_run(page, i, code, here):
    write_files(page, here)
    namespace = {"__name__": f"mine_{i}"}
    run = compile(code, f"{page.name} block {i}", "exec")
    exec(run, namespace)


@pytest.mark.parametrize(("page", "i", "text"), SHELL, ids=shown)
def test_commands_run(page, i, text, here, forks):
    write_files(page, here)
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "reverie":
            assert not words, f"{page.name}: only reverie commands are tested: {line}"
            continue
        argv = words[1:]
        if argv[0] == "--method":
            argv += ["--steps", "60"] if "--resume" in argv else SHORT[argv[1]]
        if argv[0] in cli.METHODS or argv[0] in SHORT:
            argv += ["--steps", "60"] if "--resume" in argv else SHORT[argv[0]]
        assert cli.main(argv) == 0, line


@pytest.mark.parametrize("method", OWN)
def test_what_a_page_builds_is_saved_resumed_and_loaded(method, here):
    """Cut at step 90, ten after a checkpoint: it ends with the bytes of the whole run."""
    write_files(ROOT / "docs" / "guides" / OWN[method], here)
    argv = ["--method", method, *SHORT[method], "--checkpoint-every", "40", "--log-every", "20"]
    if method == "mine.robust":
        data = ["--env", "reverie/Reacher-v5", "--transitions", "200", "--out", "data/d"]
        assert cli.main(["collect", *data]) == 0
        argv += ["--data", "dataset:data/d"]
    else:
        argv += ["--env", "reverie/Reacher-v5"]
    whole, cut = here / "runs" / "whole", here / "runs" / "cut"
    assert cli.main([*argv, "--steps", "150", "--name", "whole"]) == 0
    assert cli.main([*argv, "--steps", "90", "--name", "cut"]) == 0
    shutil.rmtree(list_checkpoints(cut / "checkpoints")[-1])  # a killed run was not judged there
    assert cli.main(["--method", method, "--resume", str(cut), "--steps", "150"]) == 0
    assert same_end(whole, cut)
    again = evaluate(load_policy(cut), make("reverie/Reacher-v5", 2), seed=EVAL_SEED)
    assert again.mean == load_run(whole).frame()["return"][-1]


def test_the_parts_that_pages_build_are_what_the_suite_takes(here):
    for page in OWN.values():
        write_files(ROOT / "docs" / "guides" / page, here)
    agent, noisy, robust = map(importlib.import_module, ("mine.agent", "mine.noisy", "mine.robust"))
    assert isinstance(agent.DDPG(3, 1, agent.DDPGConfig()), Agent)
    assert isinstance(robust.Robust(3, 1, robust.RobustConfig()), Agent)
    buffer = ReplayBuffer(Layout(3, 1), 10)
    assert isinstance(noisy.Noisy(buffer, 0.1, 0), Source)


@pytest.mark.slow
def test_an_agent_of_a_page_is_compared_with_ours(here, forks):
    """Each arm's CSV has the evaluations that its run wrote down, and the table has both arms."""
    write_files(ROOT / "docs" / "guides" / "own_agent.md", here)
    suite = here / "mine" / "suite.toml"
    suite.write_text(suite.read_text().replace('"0:2"', '"3:4"'))
    assert cli.main(["compare", str(suite), "--jobs", "2", "--out", "o", "--results", "r"]) == 0
    table = (here / "r" / "mine" / "table.md").read_text()
    for arm in ("ddpg", "td3"):
        lines = (here / "r" / "mine" / arm / "Reacher-v5-s3.csv").read_text().split()
        frame = load_run(here / "o" / "mine" / arm / "Reacher-v5-s3").frame()
        assert lines[0].startswith("step,return,seed") and len(lines) == 3  # at 200 and 400 steps
        assert float(lines[-1].split(",")[1]) == pytest.approx(frame["return"][-1], rel=1e-6)
        assert f"| {arm} |" in table


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"
