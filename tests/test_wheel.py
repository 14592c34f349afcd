"""What an installed package has: the files that demo, report, claims and suites read."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from reverie.experiments import demo
from reverie.experiments.studies.claim import parse
from reverie.experiments.studies.report import PAGE, SCRIPTS

ROOT = Path(__file__).parent.parent
ROOMS, PYTHON = ("buffers", "envs", "agents", "experiments"), ("__init__.py", "__main__.py")
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def shipped():
    """Return the files that are no Python and that the wheel is told to hold."""
    found = set()
    for package, patterns in PACKAGES["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            found |= set(folder.glob(pattern))
    return found


def read_by_commands():
    """Return what demo, report, claims and `compare NAME` read, beside the results of claims."""
    home = ROOT / "experiments"
    names = ["page.html.j2", "page.css", *SCRIPTS]
    return [
        ROOT / "py.typed",
        home / "claims.toml",
        home / "references" / "model-free.csv",
        *(PAGE.resolve() / name for name in names),
        *(home / "suites" / f"{show.suite}.toml" for show in demo.SHOWS),
        *(home / "suites").glob("*.toml"),
        *(home / "zoo").glob("*.*"),
    ]


def test_all_that_commands_read_is_shipped():
    files = shipped()
    assert [f for f in read_by_commands() if f not in files or not f.exists()] == []
    folders = {str(p.parent.relative_to(ROOT)).replace("/", ".") for p in ROOT.glob("*/**/*.py")}
    ours = {f"reverie.{f}" for f in folders if f.split(".")[0] in ROOMS}
    assert ours | {"reverie"} == set(PACKAGES["packages"])


@pytest.mark.skipif(
    not (ROOT / "experiments" / "results").is_dir(), reason="a copy without its results"
)
def test_results_of_claims_are_shipped():
    files = shipped()
    claims = parse((ROOT / "experiments" / "claims.toml").read_text(), "claims.toml")
    for suite in {c.suite for c in claims.values()}:
        kept = (ROOT / "experiments" / "results" / suite).rglob("*.[cj]*")
        assert [f for f in kept if f.suffix in (".csv", ".json") and f not in files] == []


@pytest.mark.slow
def test_a_wheel_has_it_and_runs_without_the_repository(tmp_path):
    source, wheels, home = tmp_path / "source", tmp_path / "wheels", tmp_path / "home"
    pytest.importorskip("setuptools", minversion="77")
    for name in (*ROOMS, "py.typed", "pyproject.toml", "README.md", "LICENSE", *PYTHON):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(wheels), str(source)], check=True, capture_output=True)
    (wheel,) = wheels.glob("reverie-*.whl")
    zipfile.ZipFile(wheel).extractall(home)
    for file in read_by_commands():
        assert (home / "reverie" / file.relative_to(ROOT)).read_bytes() == file.read_bytes()

    def reverie(*args):
        env = {**os.environ, "PYTHONPATH": str(home)}
        command = [sys.executable, "-m", "reverie", *args]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    told = reverie("claims")
    assert told.returncode == 0 and "| not checked | " in told.stdout
    assert re.search(r"by the numbers stands", told.stdout) and "not committed" not in told.stdout
    assert "did you mean 'mbtl'" in reverie("compare", "mbtk").stderr
    page = tmp_path / "page.html"
    results = home / "reverie" / "experiments" / "results"
    assert reverie("report", str(results), "--out", str(page)).returncode == 0
    assert "by the numbers stands" in page.read_text()
