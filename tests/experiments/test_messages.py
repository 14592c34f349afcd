"""What a person is told: one line for what we refuse, the traceback of what others raise."""

import dataclasses
import errno
import json
import math
import os
import sys
import typing
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Box
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import METHODS, config, module_of

import reverie
from reverie.agents import SACConfig
from reverie.envs.contexts import parse_contexts
from reverie.envs.errors import unknown
from reverie.experiments import (
    bc,
    cli,
    curriculum,
    dreamland,
    iql,
    matrix,
    mbtl,
    ncap,
    oer,
    ppo,
    rebrac,
    sac,
    synther,
    td3,
    td3bc,
)
from reverie.experiments.bench.report import BenchOptions
from reverie.experiments.looking.commands import CheckOptions, EvalOptions, WatchOptions
from reverie.experiments.loops import build
from reverie.experiments.loops.collecting import CollectOptions
from reverie.experiments.loops.sources import parse_data
from reverie.experiments.refusals import refusal
from reverie.experiments.runs import resources
from reverie.experiments.runs.config import (
    RANGES,
    RunOptions,
    check,
    from_dict,
    parse,
    read_config,
    to_dict,
)
from reverie.experiments.runs.progress import Watch
from reverie.experiments.studies import peer
from reverie.experiments.studies.compare import CompareOptions
from reverie.experiments.studies.suite import parse_seeds

SCRIPTS = (
    sac, td3, ppo, bc, td3bc, iql, rebrac, oer, ncap, synther, dreamland, mbtl, matrix,
    curriculum, peer
)  # fmt: skip
SMALL = ["--learning-starts", "20", "--batch-size", "8", "--hidden", "8", "--eval-episodes", "1",
         "--buffer-size", "500", "--threads", "1", "--steps", "40", "--no-tensorboard",
         "--no-progress"]  # fmt: skip


# -- whose error it is


def fail(kind):
    """Raise what a simulator may raise, in a line of this file."""
    if kind == "RuntimeError":
        raise RuntimeError("simulator connection lost")
    if kind == "ValueError":
        raise ValueError("no such joint")
    if kind == "KeyError":
        return {}["torque"]
    if kind == "FileNotFoundError":
        return Path("/nowhere/mesh.obj").read_text()
    if kind == "FileExistsError":
        raise FileExistsError("a lock of the simulator's")
    if kind == "BrokenPipeError":
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    if kind == "ModuleNotFoundError":
        import a_simulator_that_is_not_there  # noqa: F401
    if kind == "our own refusal":
        return reverie.make("Hoper-v5")
    raise AssertionError(kind)


KINDS = {
    "RuntimeError": RuntimeError, "ValueError": ValueError, "KeyError": KeyError,
    "FileNotFoundError": FileNotFoundError, "FileExistsError": FileExistsError,
    "BrokenPipeError": BrokenPipeError, "ModuleNotFoundError": ModuleNotFoundError,
    "our own refusal": ValueError,
}  # fmt: skip


class Simulator(gymnasium.Env):
    """Fails at the 30th step, or when it is made."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, kind="", made=None, render_mode=None):
        self.kind, self.t = kind, 0
        if made is not None:
            raise made

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == 30 and self.kind:
            fail(self.kind)
        return np.zeros(3, np.float32), 0.0, False, False, {}


for name in ("", *KINDS):
    gymnasium.register(
        f"Told/{name.replace(' ', '')}Sim-v0", Simulator, max_episode_steps=50,
        kwargs={"kind": name},
    )  # fmt: skip
gymnasium.register("Told/NoEntry-v0", "a_module_that_is_not_there:Env")
gymnasium.register(
    "Told/NeedsBox2D-v0", Simulator,
    kwargs={"made": DependencyNotInstalled('pip install "gymnasium[box2d]"')},
)  # fmt: skip
gymnasium.register("Told/Moved-v0", Simulator, kwargs={"made": ImportError("moved elsewhere")})
gymnasium.register("Told/Broken-v0", Simulator, kwargs={"made": ValueError("no display")})


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_environment_raises_keeps_its_traceback(kind, tmp_path):
    env = f"Told/{kind.replace(' ', '')}Sim-v0"
    with pytest.raises(KINDS[kind]) as caught:
        cli.main(["sac", "--env", env, *SMALL, "--out", str(tmp_path), "--name", "a"])
    kept = (tmp_path / "a" / "traceback.txt").read_text()
    assert "in fail\n" in kept and type(caught.value).__name__ in kept.splitlines()[-1]
    stamp = json.loads((tmp_path / "a" / "stamp.json").read_text())
    assert stamp["status"] == "failed" and KINDS[kind].__name__ in stamp["error"]


def test_a_run_that_goes_on_forgets_the_traceback(tmp_path, monkeypatch):
    argv = ["sac", "--env", "Told/RuntimeErrorSim-v0", *SMALL, "--out", str(tmp_path)]
    with pytest.raises(RuntimeError):
        cli.main([*argv, "--name", "a", "--checkpoint-every", "20"])
    assert (tmp_path / "a" / "traceback.txt").exists()
    monkeypatch.setitem(globals(), "fail", lambda kind: None)  # repaired
    assert cli.main(["sac", "--resume", str(tmp_path / "a")]) == 0
    assert not (tmp_path / "a" / "traceback.txt").exists()


def test_what_an_environment_raises_when_it_is_made(tmp_path, capsys):
    with pytest.raises(ValueError, match="no display"):
        cli.main(["sac", "--env", "Told/Broken-v0", *SMALL, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


MINE = """
import gymnasium, numpy as np
from reverie.experiments.sac import *

def main(config=None, *, resume=False):
    if config.seed == 1:
        open("/nowhere/notes.txt")
    if config.seed == 2:
        raise KeyError("arm")
    return offpolicy.run_agent("mine.script", SAC, config, resume)
"""


def test_a_script_of_your_own_is_found_here_and_keeps_its_tracebacks(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "script.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    argv = ["--method", "mine.script", "--env", "Told/Sim-v0", *SMALL]
    for seed, kind in (("1", FileNotFoundError), ("2", KeyError)):
        with pytest.raises(kind):
            cli.main([*argv, "--seed", seed])
    assert cli.main([*argv, "--env", "Told/Simm-v0"]) == 2  # refused by us, below the script
    assert cli.main([*argv, "--batch-size", "0"]) == 2
    assert "did you mean 'Told/Sim-v0'" in capsys.readouterr().err
    assert cli.main(argv) == 0


def errors():
    """Pairs of an error, as it was raised, and the line that is told, None for its traceback."""

    def raised(work, *args):
        try:
            work(*args)
        except Exception as error:
            return error

    layout = reverie.Layout(1, 1, extra={"label": 1})
    lacks = raised(layout.columns, reverie.Transitions(*[np.zeros(1)] * 6, {}))
    return {
        "a raise of ours": (raised(unknown, "x", 3, []), None),  # 3[:100] is a fault of ours
        "a fault below": (raised(to_dict, 3), None),
        "a KeyError of ours": (lacks, "label"),
        "a file": (raised(read_config, Path("/proc/1/mem/x")), "no such file"),
        "nobody's": (ValueError("never raised"), None),
    }


@pytest.mark.parametrize("case", ["a raise of ours", "a fault below", "a KeyError of ours",
                                  "a file", "nobody's"])  # fmt: skip
def test_only_what_we_raise_on_purpose_is_one_line(case):
    error, text = errors()[case]
    told = refusal(error)
    assert (told is None) if text is None else (text in told and "\n" not in told)


def test_reverie_traceback_shows_where_a_refusal_was_raised(monkeypatch):
    assert cli.main(["sac", "--preset", "quik"]) == 2
    monkeypatch.setenv("REVERIE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="did you mean 'quick'"):
        cli.main(["sac", "--preset", "quik"])
    assert "REVERIE_TRACEBACK" in cli.usage()


# -- one line, with what to do


def one_line(argv, capsys):
    """Return the line that a refused command prints."""
    capsys.readouterr()
    assert cli.main(argv) == 2
    told = capsys.readouterr()
    assert not told.out and told.err.startswith("reverie: ") and told.err.count("\n") == 1
    return told.err


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ("nomod:Id-v0", "there is no module 'nomod'. Install it, or put its folder on PYTHONPATH"),
        ("imports_more:Id-v0", "imports_more.py, line 2 imports 'more', which is not there"),
        ("wants_wandb:Id-v0", "pip install 'reverie[video]'"),
        (".x:Id-v0", "is no name of a module"),
        ("a b:Id-v0", "is no name of a module"),
        (
            "Told/NoEntry-v0",
            "imports 'a_module_that_is_not_there', which is not there: pip install",
        ),
        ("Told/NeedsBox2D-v0", 'pip install "gymnasium[box2d]"'),
        ("Told/Moved-v0", "moved elsewhere"),
        ("halfcheetah-v5", "did you mean 'HalfCheetah-v5'?"),
        ("", "unknown environment: ''"),
    ],
)
def test_an_environment_that_is_not_there(env, text, tmp_path, monkeypatch, capsys):
    (tmp_path / "imports_more.py").write_text("import json\nimport more.things\n")
    (tmp_path / "wants_wandb.py").write_text("import av_that_is_not_there\n")
    if "wandb" in env:
        (tmp_path / "wants_wandb.py").write_text("import av\n")
        monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    line = one_line(["sac", "--env", env, *SMALL, "--out", str(tmp_path / "runs")], capsys)
    assert text in line and len(line) < 500
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--batch-size", "0"], "batch_size must be from 1 to 10,000,000, got 0"),
        (["--utd", "nan"], "utd must be a finite number, got nan"),
        (["--utd", "-1"], "utd must be from 0 to 10,000, got -1.0"),
        (["--keep", "-1"], "run.keep must be from 1"),
        (["--threads", "1000000"], "run.threads must be from 1 to 1,024, got 1000000"),
        (["--checkpoint-every", "-1"], "run.checkpoint_every must be from 0"),
        (["--buffer-size", "2", "--num-envs", "3"], "buffer_size must be at least num_envs=3"),
        (["--gamma", "1.5"], "SACConfig: gamma must be in [0, 1], got 1.5"),
        (["--seeds", "0:2", "--jobs", "-1"], "--jobs must be from 1 to 1,024, got -1"),
        (["--seeds", "0:2", "--jobs", "0"], "--jobs must be from 1 to 1,024, got 0"),
        (["--seeds", "0:2", "--jobs", "two"], "--jobs must be a whole number, got 'two'"),
        (["--seeds", "0,3000000000"], "--seeds must be from 0 to 2,147,483,647, got 3000000000"),
        (["--seeds", "0:2", "--seed", "1"], "leave --seed out"),
        (["--jobs", "2"], "give --seeds"),
        (["--preset", "quick", "--config", "x"], "give --preset or --config"),
        (["--config", "x", "--resume", "y"], "give --config or --resume"),
        (["--data"], "--data names nothing"),
        (["--data", "replay:nan"], "a share is a number above 0, got nan"),
        (["--context", "gravity=1", "gravity=2"], "gravity is given twice"),
    ],
)
def test_an_option_that_cannot_be(argv, text, tmp_path, capsys):
    env = ["--env", "reverie/InvertedPendulum-v5", "--out", str(tmp_path)]
    assert text in one_line(["sac", *env, *argv], capsys)
    assert not list(tmp_path.iterdir())


def test_tyros_own_errors_end_with_status_2(capsys):
    for argv in (["--stepz", "3"], ["--steps", "1.5"], ["--critic-norm", "laier"], ["--steps"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["sac", *argv])
        assert ended.value.code == 2 and argv[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("", "is not valid JSON: Expecting value"),
        ("{", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON: 'utf-8' codec"),
        ("[" * 100_000, "its tables lie too deep"),
        ('{"method": "sac", "method": "td3"}', "'method' stands in it twice"),
        ("[]", "'method', its name, is []"),
        ('{"method": ["sac"], "config": {}}', "'method', its name, is ['sac']"),
        ('{"method": "sac"}', "'config', its settings, is 'nothing'"),
        ('{"method": "td3", "config": {}}', "use `reverie td3`"),
        ({"steps": "10"}, "steps must be a whole number, got '10'"),
        ({"steps": 10.0}, "steps must be a whole number, got 10.0"),
        ({"steps": True}, "steps must be a whole number, got True"),
        ({"steps": None}, "steps must be a whole number, got null"),
        ({"steps": 10**30}, "steps must be from 1 to 999,999,999,999"),
        ({"utd": float("nan")}, "utd must be a finite number, got nan"),
        ({"data": "replay"}, "data must be a list, got 'replay'"),
        ({"agent": None}, "agent must be a table of the settings of SACConfig, got null"),
        ({"agent": {"gama": 0.9}}, "unknown field of agent: 'gama'; did you mean 'gamma'?"),
        ({"agent": {"hidden": [8, "8"]}}, "agent.hidden[1] must be a whole number, got '8'"),
        ({"agent": {"critic_norm": "laier"}}, "none, layer, batch, got 'laier'; did you mean 'lay"),
        ({"run": {"keep": 0}}, "run.keep must be from 1 to 1,000,000, got 0"),
        ({"run": {"progress": 0}}, "run.progress must be true or false, got 0"),
        ({"run": {"out": "a\0b"}}, "run.out must be a plain text"),
        ({"env_options": {"seed": 3}}, "env_options.seed: that is not the task's to say"),
        ({"env_options": {"backend": 3}}, "env_options.backend must be a text, got 3"),
        ({"stepz": 3}, "unknown field of Config: 'stepz'; did you mean 'steps'?"),
    ],
)
def test_a_config_file_that_cannot_be(raw, text, tmp_path, capsys):
    path = tmp_path / "config.json"
    if isinstance(raw, dict):
        raw = json.dumps({"method": "sac", "config": raw})
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    line = one_line(["sac", "--config", str(path), "--out", str(tmp_path / "runs")], capsys)
    assert text in line and str(path) in line and len(line) < 600


def test_files_that_the_system_refuses(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    argv = ["sac", "--env", "reverie/InvertedPendulum-v5", *SMALL]
    for more, text in (
        (
            ["--out", str(tmp_path / "file")],
            "file/a is no directory: choose another --name or --out",
        ),
        (["--out", str(tmp_path / ("n" * 300))], "File name too long: choose a shorter name"),
        (["--config", str(tmp_path / "folder")], "config.json: Is a directory: give a file"),
        (["--config", str(tmp_path / "none")], "none: no such file; give a run directory"),
    ):
        assert text in one_line([*argv, "--name", "a", *more], capsys)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space, or choose another place"),
        (errno.EACCES, "choose a place that you may use, or change its permissions"),
        (errno.EROFS, "choose a place that can be written to"),
    ],
)
def test_what_cannot_be_refused_here_is_told_alike(number, advice):
    """No space, no permission, a disk that is read only: as a line of ours would meet them."""
    ours = {"__name__": "reverie.experiments.somewhere", "error": OSError(number, "So", "runs/a")}
    with pytest.raises(OSError) as caught:
        exec("raise error", ours)
    caught.value.__traceback__ = caught.value.__traceback__.tb_next  # without the test's own line
    assert refusal(caught.value) == f"runs/a: So: {advice}"


# -- types and ranges of every option


def numbers(hint):
    """Return int or float for a type that holds numbers, else None."""
    args = typing.get_args(hint)
    return next((k for k in (int, float) if hint is k or k in args), None)


def fields(cls, at=()):
    """Yield the path, the kind and the class of every number in a configuration."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from fields(hint, (*at, name))
        elif (kind := numbers(hint)) and name in {f.name for f in dataclasses.fields(cls)}:
            yield (*at, name), kind, typing.get_origin(hint) is tuple


def put(config, path, value):
    first, *rest = path
    new = put(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: new})


BELOW_ZERO = {"target_entropy", "log_std", "osc_start", "low", "high", "goals"}
COMMANDS = (EvalOptions, WatchOptions, CheckOptions, CollectOptions, CompareOptions)
EVERY = [(m.Config, path, kind, many) for m in SCRIPTS for path, kind, many in fields(m.Config)]
EVERY += [(cls, path, kind, many) for cls in COMMANDS for path, kind, many in fields(cls)]


def test_every_number_has_a_type_and_a_range():
    assert len(EVERY) > 200
    for cls, path, kind, many in EVERY:
        wrong = [True, "10", None, float("nan"), float("inf"), 10**30, -(10**30)]
        wrong += [1.5, 2.0] if kind is int else [1e30]
        wrong += [] if path[-1] in BELOW_ZERO else [-1]
        for value in wrong:
            if value is None and not many and _optional(cls, path):
                continue
            given = (value,) if many else value
            with pytest.raises(ValueError, match=path[-1]):
                check(put(cls(), path, given))  # some classes refuse it themselves
            if value not in (wrong[0], wrong[-1]):
                continue  # and through a file
            nested = given
            for name in reversed(path):
                nested = {name: nested}
            with pytest.raises(ValueError, match=path[-1]):
                from_dict(cls, json.loads(json.dumps(nested)))


def _optional(cls, path):
    for name in path[:-1]:
        cls = typing.get_type_hints(cls)[name]
    return type(None) in typing.get_args(typing.get_type_hints(cls)[path[-1]])


@pytest.mark.parametrize("module", SCRIPTS)
def test_a_script_refuses_from_python_too(module, tmp_path):
    run = RunOptions(out=str(tmp_path))
    with pytest.raises(ValueError, match="steps must be from 1"):
        module.main(dataclasses.replace(module.Config(), steps=0, run=run))
    with pytest.raises(ValueError, match=r"run\.keep must be a whole number, got '2'"):
        module.main(module.Config(run=dataclasses.replace(run, keep="2")))
    assert not list(tmp_path.iterdir())


def test_what_is_right_stays_as_it_is():
    for module in SCRIPTS:
        for preset in module.PRESETS.values():
            assert check(preset) is preset or check(preset) == preset  # utd=20 becomes 20.0
            assert from_dict(module.Config, json.loads(json.dumps(to_dict(preset)))) == preset
    for name in METHODS:
        options = config(name, "runs", "a")
        assert check(options) == options
        values = json.loads(json.dumps(to_dict(options)))
        assert from_dict(module_of(name).Config, values) == options


def test_numbers_of_numpy_and_lists_become_pythons():
    given = sac.Config(
        steps=np.int64(5), utd=np.float32(0.5), data=["replay"], agent=SACConfig(hidden=[8])
    )
    right = check(given)
    assert right == sac.Config(steps=5, utd=0.5, data=("replay",), agent=SACConfig(hidden=(8,)))
    assert type(right.steps) is int and type(right.utd) is float
    assert type(from_dict(sac.Config, {"utd": 2}).utd) is float


def test_a_part_of_somebody_elses_may_use_our_names():
    @dataclasses.dataclass(frozen=True)
    class Mine:
        keep: float = -0.5
        steps: str = "all of them"

    @dataclasses.dataclass(frozen=True)
    class Config:
        steps: int = 10
        mine: Mine = dataclasses.field(default_factory=Mine)
        run: RunOptions = dataclasses.field(default_factory=RunOptions)

    assert check(Config()) == Config()
    with pytest.raises(ValueError, match=r"mine\.keep must be a number"):
        from_dict(Config, {"mine": {"keep": "x"}})
    with pytest.raises(ValueError, match=r"run\.keep must be from 1"):
        from_dict(Config, {"run": {"keep": -1}})


def test_options_of_worlds_reach_them_from_a_file(tmp_path):
    """A device of the worlds beside the learner's: two options of one name."""
    options = sac.Config(
        env="reverie/InvertedPendulum-v5", steps=30, learning_starts=30, buffer_size=100,
        env_options={"device": "cpu", "reset_noise_scale": 0.02},
        run=RunOptions(out=str(tmp_path), name="a", threads=1, eval_episodes=1, progress=False,
                       tensorboard=False),
    )  # fmt: skip
    sac.main(options)
    assert cli.main(["sac", "--config", str(tmp_path / "a"), "--name", "b"]) == 0
    kept = read_config(tmp_path / "b")[1]["env_options"]
    assert kept == {"device": "cpu", "reset_noise_scale": 0.02}


@pytest.mark.parametrize(
    ("cls", "argv", "text"),
    [
        (EvalOptions, ["--episodes", "0"], "episodes must be from 1"),
        (WatchOptions, ["--steps", "-3"], "steps must be from 1"),
        (CollectOptions, ["--until", "-1"], "until must be from 0"),
        (CompareOptions, ["--jobs", "-1"], "jobs must be from 1 to 1,024, got -1"),
        (BenchOptions, ["env", "--seconds", "nan"], "seconds must be a finite number"),
    ],
)
def test_options_of_commands(cls, argv, text):
    with pytest.raises(ValueError, match=text):
        parse(cls, argv, "command")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["list", "evns"], "did you mean 'envs'"),
        (["list", "envs", "more"], "takes nothing more, got 'more'"),
        (["demo", "--quick"], "takes no options, got '--quick'"),
        (["plot", "run", "--out", "a.xyz"], "end it with one of .png, .pdf, .svg"),
    ],
)
def test_commands_refuse_what_they_would_pass_over(argv, text, capsys):
    assert text in one_line(argv, capsys)


@pytest.mark.parametrize("command", ["list", "demo"])
def test_help_of_commands_without_options(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert f"usage: reverie {command}" in capsys.readouterr().out


def test_a_damaged_run_in_a_list_is_named(tmp_path, capsys):
    for name, text in (("a", "{"), ("b", "[]"), ("c", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stamp.json").write_text(text)
    assert cli.main(["list", "runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["unreadable", "-"]] * 3


# -- memory


def test_a_buffer_that_does_not_fit_is_refused_with_what_does(monkeypatch):
    monkeypatch.setattr(resources, "free_memory", lambda device: 100_000_000_000)
    resources.require_memory(452_000, 221_213, "buffer_size")  # 99.99 GB
    # 96 x 96 x 3 twice, 2 actions, reward and two flags in float32; an int64 and a bool: 221,213
    with pytest.raises(ValueError) as refused:
        resources.require_memory(1_000_000, 221_213, "buffer_size")
    assert str(refused.value) == (
        "buffer_size=1,000,000 rows of 221,213 bytes need 221.2 GB, and 100.0 GB are free on cpu: "
        "give --buffer-size 360000"  # 0.8 * 1e11 / 221213 is 361,642
    )
    layout = reverie.Layout(96 * 96 * 3, 2)
    assert reverie.ReplayBuffer.row_bytes(layout) == 221_213
    buffer = reverie.ReplayBuffer(reverie.Layout(3, 2), 10, 2)
    stored = (buffer._rows, buffer._episode, buffer._invalid)
    assert sum(x.nbytes for x in stored) == 10 * buffer.row_bytes(buffer.layout)


def test_a_run_asks_before_it_allocates(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "free_memory", lambda device: 20_000)  # Reacher: 109 bytes a row
    monkeypatch.setattr(build, "ReplayBuffer", NoBuffer)
    with pytest.raises(ValueError, match="buffer_size=240 rows of 109 bytes"):
        sac.main(config("sac", tmp_path, "a"))
    assert not list(tmp_path.iterdir())


class NoBuffer(reverie.ReplayBuffer):
    def __init__(self, *args, **kwargs):
        raise AssertionError("allocated")


def test_free_memory_is_what_kernel_and_container_leave(tmp_path, monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
        "/sys/fs/cgroup/memory.max": "4000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 1500000\nfile 2400000\n",
    }
    real = Path.read_text

    def read(path, *args, **kwargs):
        if str(path).startswith(("/proc/mem", "/sys/fs")):
            if str(path) not in files:
                raise FileNotFoundError(path)
            return files[str(path)]
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read)
    assert resources.free_memory() == 2_500_000  # the container's: its page cache can go
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert resources.free_memory() == 5_120_000
    files.clear()
    assert resources.free_memory() is None
    resources.require_memory(10**9, 10**9, "buffer_size")  # nobody says: try


# -- pipes


def listing(stdout, tmp_path, buffering):
    """List what there is in a process of its own; return its status and what it complains of."""
    told = tmp_path / "stderr"
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.dup2(stdout, 1)
            sys.stdout = open(1, "w", buffering=buffering)  # noqa: SIM115
            sys.stderr = told.open("w")
            status = cli.main(["list"])
        except SystemExit as ended:
            status = ended.code
        finally:
            sys.stdout.flush()  # as Python does at the end of a process
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), told.read_text()


@pytest.mark.parametrize("buffering", [1, 8192, 1 << 20])  # lines, less than the list, more
def test_a_pipe_that_nobody_reads_ends_quietly(buffering, tmp_path):
    read, write = os.pipe()
    os.close(read)
    assert listing(write, tmp_path, buffering) == (141, "")
    os.close(write)


@pytest.mark.parametrize("buffering", [1, 1 << 20])
def test_a_full_disk_behind_the_output_is_told(buffering, tmp_path):
    with open("/dev/full", "wb") as full:
        status, told = listing(full.fileno(), tmp_path, buffering)
    assert status == 2 and told.startswith("reverie: ") and told.count("\n") == 1
    assert "No space left on device: free some space" in told


def test_a_run_goes_on_when_nobody_reads_its_progress(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        flush = write

        def isatty(self):
            return False

    class Counter:
        step, steps, text = 3, 10, ""

    monkeypatch.setattr(sys, "stderr", Closed())
    Watch(Counter(), "run", True).close()


# -- whatever stands in a file or behind an option


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner,
                                                                max_size=3),
    max_leaves=8,
)  # fmt: skip
FAST = settings(
    max_examples=150, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def places(values, at=()):
    """Yield the path to every value in nested tables."""
    for name, value in values.items():
        yield (*at, name)
        if isinstance(value, dict):
            yield from places(value, (*at, name))


@FAST
@given(st.data())
def test_any_value_anywhere_in_a_config_is_taken_or_told(data):
    module = data.draw(st.sampled_from(SCRIPTS))
    values = json.loads(json.dumps(to_dict(module.Config())))
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(list(places(values))))
        at = values
        for name in parents:
            at = at[name]
        at[last] = data.draw(JSON)
    told_or_kept(module.Config, values)


@FAST
@given(JSON, st.sampled_from(SCRIPTS))
def test_any_json_is_a_config_or_is_told(values, module):
    if isinstance(values, dict):
        told_or_kept(module.Config, values)


def told_or_kept(cls, values):
    try:
        made = from_dict(cls, values)
    except ValueError as error:
        assert 0 < len(str(error)) < 1000
        return
    assert check(made) == made  # and what was taken is written and read again as it is
    assert from_dict(cls, json.loads(json.dumps(to_dict(made), allow_nan=False))) == made


@FAST
@given(st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode)
       | JSON.map(lambda x: json.dumps({"method": "sac", "config": x}).encode()))  # fmt: skip
def test_any_bytes_are_a_config_file_or_are_told(tmp_path, raw):
    path = tmp_path / "config.json"
    path.write_bytes(raw)
    try:
        method, values = read_config(path)
    except ValueError as error:
        assert str(path) in str(error) and len(str(error)) < 1000
        return
    assert method == "sac" and isinstance(values, dict)


WORDS = st.text("0123456789:,-+. e_replydatsmni/=nft", max_size=16)


@FAST
@given(
    WORDS | st.tuples(st.integers(-5, 10**12), st.integers(-5, 10**12)).map("{0[0]}:{0[1]}".format)
)
def test_any_text_is_seeds_or_is_told(text):
    try:
        seeds = parse_seeds(text)
    except ValueError as error:
        assert "seeds" in str(error)
        return
    assert seeds and min(seeds) >= 0 and len(set(seeds)) == len(seeds) <= 10_000


@FAST
@given(st.lists(WORDS | WORDS.map("replay:{}".format) | WORDS.map("dataset:{}".format), max_size=3))
def test_any_text_is_data_or_is_told(texts):
    try:
        parts = parse_data(texts)
    except ValueError as error:
        assert "--data" in str(error)
        return
    assert len(parts) == len(texts)
    assert all(p.share > 0 and math.isfinite(p.share) and p.path != "" for p in parts)


@FAST
@given(st.lists(WORDS | WORDS.map("gravity={}".format), max_size=3))
def test_any_text_is_contexts_or_is_told(texts):
    try:
        found = parse_contexts(texts)
    except ValueError as error:
        assert "context" in str(error)
        return
    assert (found is None) == (not texts)
    assert found is None or (np.isfinite(found.table).all() and len(found) <= 10_000)


def test_ranges_are_asked_of_something():
    """A name in the table that no configuration and no command has would be a slip."""
    named = {p[-1] for _, p, _, _ in EVERY} | {f.name for f in dataclasses.fields(BenchOptions)}
    assert set(RANGES) - named == {"max_episode_steps"}  # of env_options


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--policy", "random", "random", "--transitions", "1"], "1 transitions of 2 policies"),
        (["--policy", "--transitions", "10"], "10 transitions of 0 policies"),
        (["--transitions", "10", "--out", ""], "--out '.' names no file"),
    ],
)
def test_a_dataset_that_cannot_be(argv, text, capsys):
    assert text in one_line(["collect", "--env", "reverie/Reacher-v5", *argv], capsys)


def test_a_file_of_claims_that_is_none(tmp_path, capsys):
    (tmp_path / "claims.toml").write_text("x")
    line = one_line(["claims", "--claims", str(tmp_path / "claims.toml")], capsys)
    assert f"{tmp_path / 'claims.toml'}: no valid TOML: " in line


def test_a_folder_that_can_never_be_made_is_told(capsys):
    """Not waited for: only a directory that was there may come back."""
    argv = ["sac", "--env", "reverie/InvertedPendulum-v5", *SMALL, "--out", "/proc/nowhere"]
    assert "cannot be written to (No such file or directory)" in one_line(argv, capsys)


@pytest.mark.parametrize("text", ["", "<mujoco", "<mujoco><nonsense/></mujoco>", "\0", None])
def test_a_model_that_is_none_is_told(text, tmp_path, capsys):
    file, about = tmp_path / "model.xml", tmp_path / "config.json"
    if text is None:
        file.mkdir()
    else:
        file.write_text(text)
    options = {"env": "HalfCheetah-v5", "env_options": {"xml_file": str(file)}}
    about.write_text(json.dumps({"method": "sac", "config": options}))
    told = one_line(["sac", "--config", str(about), "--out", str(tmp_path / "runs")], capsys)
    assert told.startswith(f"reverie: xml_file='{file}' is no model: ")
    assert not list((tmp_path / "runs").glob("*"))
