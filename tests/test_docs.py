"""Every Python block of the docs runs, and every command in them parses and runs, made short."""

import re
import shlex
from pathlib import Path

import pytest

from reverie.experiments import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUIET = ["--eval-episodes", "2", "--threads", "1", "--no-progress", "--no-tensorboard"]
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
    "ncap": ["--steps", "40", "--episode-steps", "5", "--es.population", "4", *QUIET],
    "ppo": ["--steps", "40", "--num-envs", "2", "--n-steps", "10", "--batch-size", "10", *QUIET],
}


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.S)


PYTHON = [(p.name, i, b) for p in PAGES for i, b in enumerate(blocks(p, "python"))]
SHELL = [(p.name, i, b) for p in PAGES for i, b in enumerate(blocks(p, "bash"))]


@pytest.mark.parametrize(("page", "i", "code"), PYTHON, ids=lambda x: str(x)[:12])
def test_python_blocks_run(page, i, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": f"{page}_{i}"}
    run = compile(code, f"{page} block {i}", "exec")
    exec(run, namespace)


@pytest.mark.parametrize(("page", "i", "text"), SHELL, ids=lambda x: str(x)[:12])
def test_commands_run(page, i, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "reverie":
            assert not words, f"{page}: only reverie commands are tested: {line}"
            continue
        argv = words[1:]
        if argv[0] in cli.METHODS:
            argv += ["--steps", "60"] if "--resume" in argv else SHORT[argv[0]]
        assert cli.main(argv) == 0, line


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page}: {target}"
