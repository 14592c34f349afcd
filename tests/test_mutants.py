"""Every mutant in `mutants.py` is found by the test that it names, and the list does not rot."""

import ast
import compileall
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest
from mutants import MUTANTS

ROOT = Path(__file__).parent.parent
ROOMS = ("buffers", "envs", "agents", "experiments", "tests")
FAILED, SECONDS = 1, 300  # pytest's exit status when tests failed; a mutant's test may hang
# Imports what is not ours once, then runs tests in forked children, which import the copy anew.
SERVER = """
import os, signal, sys
import gymnasium, hypothesis, mujoco, pytest, scipy.stats, stable_baselines3, torch, torch._dynamo
for line in sys.stdin:
    log, *tests = line.split()
    child = os.fork()
    if not child:
        signal.alarm(int(sys.argv[1]))
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1), os.dup2(handle, 2)
        os._exit(pytest.main(["-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Copy:
    """A copy of the package whose tests can be run, quickly and again and again."""

    def __init__(self, folder):
        self.root, self.log = folder / "reverie", folder / "log"
        skip = shutil.ignore_patterns("__pycache__", "results")
        for room in ROOMS:
            shutil.copytree(ROOT / room, self.root / room, ignore=skip)
        for file in ("__init__.py", "__main__.py", "pyproject.toml"):
            shutil.copy(ROOT / file, self.root)
        # Bytecode that is checked by content: a mutant is as long and as old as what it replaces.
        compileall.compile_dir(
            self.root, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH
        )
        own = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(SECONDS)], cwd=self.root, env={**os.environ, **own},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *tests):
        """Return pytest's exit status, minus the signal if one ended it, and its output."""
        print(self.log, *(f"tests/{t}" for t in tests), file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline()), self.log.read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    made = Copy(tmp_path_factory.mktemp("mutants"))
    yield made
    made.server.stdin.close()
    made.server.wait()


@pytest.mark.slow
def test_the_named_tests_pass_where_nothing_is_changed(copy):
    status, text = copy.run(*dict.fromkeys(m.test for m in MUTANTS))
    assert status == 0, text


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.file}: {m.new or 'nothing'}"[:80])
def test_a_mutant_is_found(mutant, copy):
    file = copy.root / mutant.file
    text = file.read_text()
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        status, told = copy.run(mutant.test)
    finally:
        file.write_text(text)
    assert status == FAILED, f"{mutant} lives: pytest ended with {status}\n{told}"


@functools.cache
def source(file):
    return (ROOT / file).read_text()


@functools.cache
def functions_of(file):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def rotten(m):
    """Return what is wrong with a mutant's line; None if it applies and its test is there."""
    if (count := source(m.file).count(m.old)) != 1:
        return f"{m.file} has {m.old!r} {count} times, expected once"
    try:
        ast.parse(source(m.file).replace(m.old, m.new))
    except SyntaxError as error:
        return f"{m.file} with {m.new!r} is no Python: {error}"
    file, _, name = m.test.partition("::")
    return None if name.partition("[")[0] in functions_of(file) else f"{m.test}: no such test"


def test_the_list_does_not_rot():
    assert [told for m in MUTANTS if (told := rotten(m)) is not None] == []


def test_every_room_and_every_method_has_mutants():
    """A method brings its own: a line in the list for its folder and for its loop."""
    touched = {m.file for m in MUTANTS}
    folders = [p.parent for p in (ROOT / "agents").glob("*/__init__.py")]
    folders += [ROOT / "experiments" / room for room in ("loops", "runs", "studies")]
    folders += [ROOT / "buffers", ROOT / "envs"]
    for folder in folders:
        place = folder.relative_to(ROOT).as_posix()
        assert any(file.startswith(f"{place}/") for file in touched), f"{place}: no mutant"
    assert len(MUTANTS) >= 50 and len(set(MUTANTS)) == len(MUTANTS)
