"""A claim stands only on committed, clean, complete runs that are what it said they would be."""

import csv
import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reported import claimed

from reverie.agents.mbtl import Matrix, MatrixCard
from reverie.experiments import cli
from reverie.experiments.studies import claims as claims_module
from reverie.experiments.studies import evidence
from reverie.experiments.studies.claim import Claim, parse
from reverie.experiments.studies.claims import (
    HERE,
    committed,
    gather,
    history,
    values_of,
    verdicts,
)  # fmt: skip
from reverie.experiments.studies.results import Kept

TEXT = """[c]
says = "a beats b"
suite = "s"
env = "reverie/E-v0"
steps = 100
metric = "return"
better = "a"
than = "b"
seeds = "0:4"
"""
SUITE = """name = "s"
seeds = "0:4"
[[arms]]
name = "a"
method = "mine.a"
set = { lr = 1.0, "net.width" = 64 }
[[arms]]
name = "b"
method = "mine.a"
set = { lr = 2.0 }
[[tasks]]
env = "reverie/E-v0"
steps = 100
set = { run = { eval_every = 50 } }
"""
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEFORE = NOON - timedelta(hours=1)
A, B = (10, 11, 12, 13), (5, 6.1, 7.2, 8.3)  # differences 5, 4.9, 4.8, 4.7


def git(folder, *args, when=NOON):
    stamp = {"GIT_AUTHOR_DATE": when.isoformat(), "GIT_COMMITTER_DATE": when.isoformat()}
    name = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *name, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=stamp).stdout


def commit(folder, when=NOON, text=None):
    if text is not None:
        (folder / "claims.toml").write_text(text)
    git(folder, "add", "-A", when=when)
    git(folder, "commit", "-qm", "x", "--allow-empty", when=when)


def put(folder, arm, seed, value, rows=(50, 100), started=NOON, columns=None, **changes):
    """Write a run as `reverie compare` keeps it; `changes` to stamp and, dotted, to its config."""
    path = folder / "results" / "s" / arm / f"E-v0-s{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "return", "seed"])
        writer.writerows([step, value if step >= 100 else 0.0, seed] for step in rows)
    run = {"name": f"E-v0-s{seed}", "threads": 1, "eval_every": 50}
    lr = {"a": 1.0, "b": 2.0}[arm]
    config = {"env": "reverie/E-v0", "steps": 100, "seed": seed, "lr": lr, "net": {"width": 64}}
    stamp = {
        "method": "mine.a", "started": started.isoformat(), "status": "finished",
        "revision": "abc123", "config": {**config, "run": run},
    }  # fmt: skip
    for name, new in changes.items():
        at = stamp
        *parents, last = name.split("__")
        for parent in parents:
            at = at[parent]
        at[last] = new
    path.with_suffix(".json").write_text(json.dumps(stamp))
    return path


def fill(folder, a=A, b=B, **changes):
    for arm, values in (("a", a), ("b", b)):
        for seed, value in enumerate(values):
            put(folder, arm, seed, value, **changes)


@pytest.fixture
def repo(tmp_path):
    """A claim with its suite, committed before its runs, and the runs, committed."""
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "s.toml").write_text(SUITE)
    git(tmp_path, "init", "-q")
    commit(tmp_path, BEFORE, TEXT)
    fill(tmp_path)
    commit(tmp_path)
    return tmp_path


def verdict(repo, i=0):
    return verdicts(repo / "claims.toml", repo / "results")[i]


def again(repo, text=TEXT, suite=SUITE):
    """Claim anew, as if the first commit of a repository were this one."""
    subprocess.run(["rm", "-rf", str(repo / ".git"), str(repo / "results")], check=True)
    (repo / "suites" / "s.toml").write_text(suite)
    git(repo, "init", "-q")
    commit(repo, BEFORE, text)


def test_the_sign_of_the_paired_interval_is_the_verdict(repo):
    """Mean difference 4.85, standard error 0.0645, t(3) 3.182: 4.645 to 5.055."""
    v = verdict(repo)
    assert v.state == "stands"
    assert v.detail == "11.5 against 6.650: difference 4.850 (4.645 to 5.055), 4 pairs"
    for b, state in (((11, 10, 13, 12), "undecided"), ((20, 20.1, 20.2, 20), "refuted")):
        fill(repo, b=b)
        commit(repo)
        assert verdict(repo).state == state


def test_lower_wins_where_the_claim_says_so(repo):
    again(repo, TEXT + 'sign = "lower"\n')
    fill(repo)
    commit(repo)
    assert verdict(repo).state == "refuted"
    fill(repo, a=B, b=A)
    commit(repo)
    assert verdict(repo).state == "stands" and "-4.850 (-5.055 to -4.645)" in verdict(repo).detail


def test_results_must_be_committed_as_they_lie_there(repo):
    path = put(repo, "a", 2, 12.05)
    v = verdict(repo)
    assert v.state == "results not committed" and v.detail.startswith(str(path))
    git(repo, "update-index", "--assume-unchanged", str(path))  # git itself now says it is clean
    assert not git(repo, "status", "--porcelain") and verdict(repo).state == v.state
    git(repo, "update-index", "--no-assume-unchanged", str(path))
    git(repo, "add", "-A")
    assert verdict(repo).state == v.state  # staged is not committed
    commit(repo)
    assert verdict(repo).state == "stands"
    path.with_suffix(".json").write_text(path.with_suffix(".json").read_text() + " ")
    assert verdict(repo).state == v.state  # nor may a stamp be touched


def test_results_outside_of_any_repository_give_no_verdict(repo, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    fill(other)
    found = verdicts(repo / "claims.toml", other / "results")
    assert found[0].state == "results not committed"


def test_no_verdict_before_all_runs_are_there(repo):
    put(repo, "b", 3, 1.0, status="running")
    assert verdict(repo).detail == "3 of 4 pairs" and verdict(repo).state == "incomplete"
    put(repo, "b", 3, 1.0, status="other settings")
    assert verdict(repo).state == "incomplete"
    put(repo, "b", 3, 1.0, rows=(50,))
    assert verdict(repo).detail == "3 of 4 pairs; b seed 3 has no return at 100"


def test_a_run_that_missed_the_evaluation_is_not_read_at_a_later_one(repo):
    put(repo, "b", 3, 8.3, rows=(50, 150))
    commit(repo)
    v = verdict(repo)
    assert v.state == "incomplete" and "b seed 3 has no return at 100" in v.detail
    fill(repo, rows=(50, 104))  # none has one at 100: all are read at the first beyond it
    commit(repo)
    assert verdict(repo).state == "stands"
    put(repo, "b", 3, float("nan"), rows=(50, 104))
    assert "b seed 3 has no return at 104" in verdict(repo).detail


@pytest.mark.parametrize(
    ("changes", "state", "text"),
    [
        ({"started": BEFORE - timedelta(seconds=1)}, "too late", "a seed 2 started"),
        ({"revision": "abc123-dirty"}, "code not clean", "abc123-dirty"),
        ({"revision": None}, "code not clean", "None"),
        ({"revision": "def456"}, "mixed code", "def456, others by abc123"),
        ({"config__lr": 0.5}, "other settings", "lr is 0.5, not 1.0"),
        ({"config__steps": 90}, "other settings", "steps is 90, not 100"),
        ({"config__run": {"eval_every": 10}}, "other settings", "run.eval_every is 10, not 50"),
        ({"method": "mine.b"}, "other settings", "method is 'mine.b', not 'mine.a'"),
        ({"config__seed": 0}, "other settings", "made with seed 0"),
        ({"config__gamma": 0.9}, "mixed settings", "a seed 2 differs in gamma"),
        ({"config": []}, "cannot be read", "E-v0-s2.json"),
    ],
)
def test_rules_that_a_run_can_break(repo, changes, state, text):
    put(repo, "a", 2, 12, **changes)
    commit(repo)
    v = verdict(repo)
    assert v.state == state and text in v.detail


def test_arms_differ_only_in_what_the_claim_names(repo):
    """The suite sets lr and net.width differently; what it leaves to both must be equal."""
    fill(repo, config__gamma=0.9)
    commit(repo)
    assert verdict(repo).state == "stands"  # the same in both
    for seed, value in enumerate(B):
        put(repo, "b", seed, value, config__gamma=0.8)
    commit(repo)
    v = verdict(repo)
    assert v.state == "other differences" and v.detail == "the arms differ in gamma"
    again(repo, TEXT + 'differs = ["net"]\n')  # the claim names less than the suite sets
    fill(repo)
    commit(repo)
    assert verdict(repo).detail == "the arms differ in lr"
    again(repo, TEXT + 'differs = ["lr"]\n')
    fill(repo)
    commit(repo)
    assert verdict(repo).state == "stands"
    same = SUITE.replace("lr = 2.0", "lr = 1.0")
    again(repo, suite=same)
    fill(repo, config__lr=1.0)
    commit(repo)
    assert verdict(repo).detail == "the arms differ in nothing"


def test_another_method_is_a_difference_with_all_that_only_one_has(repo):
    other = SUITE.replace('"b"\nmethod = "mine.a"', '"b"\nmethod = "mine.b"')
    again(repo, suite=other)
    fill(repo)
    for seed, value in enumerate(B):
        put(repo, "b", seed, value, method="mine.b", config__only=3)
    commit(repo)
    assert verdict(repo).state == "stands"
    again(repo, TEXT + 'differs = ["lr"]\n', other)
    fill(repo)
    for seed, value in enumerate(B):
        put(repo, "b", seed, value, method="mine.b", config__only=3)
    commit(repo)
    assert verdict(repo).detail == "the arms differ in method"


def test_the_suite_counts_as_of_the_claim(repo):
    """Edited after the claim, it is no excuse for runs that follow the edit."""
    (repo / "suites" / "s.toml").write_text(SUITE.replace("lr = 1.0", "lr = 9.0"))
    commit(repo)
    assert verdict(repo).state == "stands"  # the runs are as it was
    for seed, value in enumerate(A):
        put(repo, "a", seed, value, config__lr=9.0)
    commit(repo)
    assert "lr is 9.0, not 1.0" in verdict(repo).detail
    git(repo, "rm", "-q", "suites/s.toml")
    subprocess.run(["rm", "-rf", str(repo / ".git")], check=True)
    git(repo, "init", "-q")
    commit(repo, BEFORE, TEXT)
    assert verdict(repo).state == "no suite"


def test_a_preset_counts_as_of_the_code_of_the_runs(monkeypatch):
    """What a preset sets is compared by value; where it changed since, the runs' code is asked."""
    now, then = {"utd": 20, "agent.policy_delay": 20}, {"utd": 20}
    monkeypatch.setattr(
        evidence, "preset_settings", lambda method, preset, code=None: then if code else now
    )
    from reverie.experiments.studies import claims
    from reverie.experiments.studies.suite import parse_suite

    suite = parse_suite(SUITE.replace('method = "mine.a"\nset', 'method = "sac"\nset'), "s")
    old = fake(config={"env": "reverie/E-v0", "steps": 100, "lr": 1.0, "utd": 20,
                       "net": {"width": 64}, "run": {"eval_every": 50}})  # fmt: skip
    assert claims._says(suite, "a", "E-v0", [old], "abc")["utd"] == 20
    assert "agent.policy_delay" not in claims._says(suite, "a", "E-v0", [old], "abc")


def fake(**stamp):
    from reverie.experiments.studies.results import Kept

    return Kept(None, {"method": "sac", **stamp}, {})


def test_presets_can_be_asked_of_a_revision(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "experiments" / "__init__.py").write_text("")
    script = tmp_path / "experiments" / "sac.py"
    text = (
        "from dataclasses import dataclass\n@dataclass\nclass Config:\n    utd: int = 1\n"
        "    lr: float = 0.1\nPRESETS = {'default': Config(), 'redq': Config(utd=20)}\n"
    )
    script.write_text(text)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    then = git(tmp_path, "describe", "--always", "--abbrev=12").strip()
    script.write_text(text.replace("utd=20", "utd=3"))
    commit(tmp_path)
    monkeypatch.setattr(evidence, "OURS", tmp_path)
    assert evidence.preset_settings("sac", "redq", then) == {"utd": 20}
    assert evidence.preset_settings("sac", "redq")["utd"] == 20  # that of the code that runs
    for wrong in ("0123456789ab", "--output=x"):
        with pytest.raises(ValueError, match="not in"):
            evidence.preset_settings("sac", "redq", wrong)
    with pytest.raises(ValueError, match="cannot be read"):
        evidence.preset_settings("sac", "nothing", then)
    with pytest.raises(ValueError, match="name what it sets"):
        evidence.preset_settings("my_pkg.mine", "redq")


def test_diverged_runs_count_against_their_arm(repo):
    put(repo, "a", 0, 0.0, rows=(50,), status="diverged")
    commit(repo)
    v = verdict(repo)  # its value is the worst of all, 5: differences 0, 4.9, 4.8, 4.7
    assert v.state == "undecided" and "difference 3.600" in v.detail
    assert v.detail.endswith("a diverged: seed [0], counted as the worst")
    fill(repo, a=(100, 110, 120, 130))
    put(repo, "a", 0, 0.0, rows=(50,), status="diverged")
    commit(repo)
    assert verdict(repo).state == "undecided"  # however good the others are
    fill(repo)
    put(repo, "b", 0, 0.0, rows=(50,), status="diverged")
    commit(repo)
    assert verdict(repo).state == "stands" and "b diverged: seed [0]" in verdict(repo).detail
    for seed in range(4):
        put(repo, "a", seed, 0.0, rows=(50,), status="diverged")
        put(repo, "b", seed, 0.0, rows=(50,), status="diverged")
    commit(repo)
    assert verdict(repo).state == "undecided"


def test_an_equivalence_is_shown_by_the_interval_within_its_margin(repo):
    """Differences .1, -.1, .2, 0: mean .05, standard error .0645, t(3) at 95 %: 2.353."""
    near = [x + d for x, d in zip(B, (0.1, -0.1, 0.2, 0.0), strict=True)]
    for margin, state in ((0.21, "equivalent"), (0.20, "not shown")):  # .05 + 2.353 x .0645 = .202
        again(repo, TEXT + f"margin = {margin}\n")
        fill(repo, a=near)
        commit(repo)
        assert verdict(repo).state == state
        assert "difference 0.050 (-0.102 to 0.202)" in verdict(repo).detail
    fill(repo)  # far apart: not shown is all that it says
    commit(repo)
    assert verdict(repo).state == "not shown"
    again(repo, TEXT + "margin = 100.0\n")
    fill(repo, a=near)
    put(repo, "b", 0, 0.0, rows=(50,), status="diverged")
    commit(repo)
    assert verdict(repo).state == "not shown"


def columns(folder, arm, seed, rows, **changes):
    """Write a run with a column of units: several rows at the claim's step."""
    path = put(folder, arm, seed, 0.0, **changes)
    lines = [f"{step},{value},{seed},{model}" for step, value, model in rows]
    path.write_text("\n".join(["step,return,seed,model", *lines]) + "\n")


def test_pairs_are_of_the_unit_that_the_claim_names(repo):
    """Models 0, 1, 2 with two controllers each: differences of means 2, 3, 4; not six pairs."""
    again(repo, TEXT.replace('"0:4"', '"0:2"') + 'unit = "model"\n')
    for seed in (0, 1):  # a controller of each model
        columns(repo, "a", seed, [(100, 10 + m + 4 * seed, m) for m in range(3)])
        columns(repo, "b", seed, [(100, 8 - 6 * seed + 6, m) for m in range(3)])
    commit(repo)
    v = verdict(repo)  # a: 12, 13, 14; b: 11 each: 1, 2, 3
    assert "difference 2.000" in v.detail and v.detail.endswith("3 pairs of model")
    assert v.state == "undecided"  # 2 +- 4.303 / sqrt(3) = -.48 to 4.48
    columns(repo, "b", 1, [(100, 8, m) for m in range(2)])
    commit(repo)
    assert "3 pairs" in verdict(repo).detail  # model 2 has still a controller in both arms
    columns(repo, "b", 0, [(100, 14, m) for m in range(2)])
    assert verdict(repo).detail == "model [2.0] in one of the arms only"
    again(repo, TEXT.replace('"0:4"', '"0:2"'))
    for seed in (0, 1):
        columns(repo, "a", seed, [(100, 1, 0), (100, 2, 1)])
        columns(repo, "b", seed, [(100, 1, 0), (100, 2, 1)])
    v = verdict(repo)
    assert v.state == "cannot be read" and "name the claim's unit" in v.detail


def test_a_runs_value_may_be_the_mean_of_its_last_evaluations(tmp_path):
    """10, 2, 6, none and 90 at 50, 100, ...: of three up to 150 the mean is 6, of two 4."""
    table = {"step": [50, 100, 150, 200, 250], "return": [10, 2, 6, np.nan, 90]}
    columns = {k: np.array(v, float) for k, v in table.items()}
    run = Kept(tmp_path, {"config": {"seed": 3}}, columns)
    got = {}
    for count in (1, 2, 3, 4):
        claim = parse(TEXT.replace("[c]", f"[c]\nevaluations = {count}"))["c"]
        got[count] = [values_of(claim, run, step) for step in (150, 200)]
    assert got[1] == [[(3, 6)], []] and got[2] == [[(3, 2), (3, 6)], []]
    assert got[3] == [[(3, 10), (3, 2), (3, 6)], []] and got[4] == [[], []]
    means, _, _ = gather(
        parse(TEXT.replace("[c]", "[c]\nevaluations = 2").replace("100", "150"))["c"],
        {"a": {3: Kept(tmp_path, {"config": {"seed": 3}, "status": "finished"}, columns)}, "b": {}},
    )
    assert means["a"] == {3: 4.0}


def test_a_unit_may_be_a_setting(repo):
    """Seeds 0 to 3 are two controllers of each of two models."""
    again(repo, TEXT + 'unit = "model_seed"\n')
    for arm, values in (("a", (10, 12, 20, 24)), ("b", (1, 3, 10, 10))):
        for seed, value in enumerate(values):
            put(repo, arm, seed, value, config__model_seed=seed // 2)
    commit(repo)
    v = verdict(repo)  # 11 - 2 and 22 - 10
    assert "difference 10.5" in v.detail and v.detail.endswith("2 pairs of model_seed")


def test_a_claim_is_as_old_as_its_last_change(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(TEXT)
    claim = parse(TEXT)["c"]
    git(tmp_path, "init", "-q")
    assert committed(history(path), claim) is None
    commit(tmp_path, BEFORE, TEXT)
    commit(tmp_path, NOON, TEXT + TEXT.replace("[c]", "[d]"))  # another claim is added
    assert committed(history(path), claim).when == BEFORE
    commit(tmp_path, NOON, TEXT + 'sign = "higher"\n')  # a key that it lacked, at its default
    assert committed(history(path), claim).when == BEFORE
    changed = TEXT.replace("steps = 100", "steps = 50")
    commit(tmp_path, NOON, changed)
    past = history(path)
    assert committed(past, parse(changed)["c"]).when == NOON and committed(past, claim) is None
    later = NOON + timedelta(hours=2)
    commit(tmp_path, later, TEXT)  # back again: as old as that
    assert committed(history(path), claim).when == later


def test_withdrawn_claims_stay_listed(repo):
    commit(repo, NOON, TEXT + 'withdrawn = "the metric was wrong"\n')
    assert (verdict(repo).state, verdict(repo).detail) == ("withdrawn", "the metric was wrong")
    commit(repo, NOON, TEXT.replace("[c]", "[d]"))
    both = verdicts(repo / "claims.toml", repo / "results")  # d is as young as its runs
    assert [(v.claim.name, v.state) for v in both] == [("d", "stands"), ("c", "withdrawn")]
    assert re.match("taken out of the file, by commit [0-9a-f]{12}", both[1].detail)
    (repo / "claims.toml").write_text("")
    assert {v.claim.name for v in verdicts(repo / "claims.toml", repo / "results")} == {"c", "d"}


def test_the_command_prints_a_table_and_fails_on_a_broken_rule(repo, capsys):
    args = ["claims", "--claims", str(repo / "claims.toml"), "--results", str(repo / "results")]
    assert cli.main(args) == 0
    assert "| a beats b | stands |" in capsys.readouterr().out
    put(repo, "a", 0, 10.05)
    assert cli.main(args) == 1
    assert "| a beats b | results not committed |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (("metric", "metrik"), "metric"),
        (('better = "a"\n', ""), "lacks better"),
        (('"0:4"', '"103,5"'), "pilot"),
        (('"0:4"', '"0,0"'), "twice"),
        (('"0:4"', "4"), "seeds must be a text, got 4"),
        (("= 100", '= "100"'), "steps must be a whole number, got '100'"),
        (("= 100", "= -1"), "steps must be from 1 to 999,999,999,999, got -1"),
        (('than = "b"', 'than = "a"'), "both 'a'"),
        (("[c]", '[c]\nsign = "up"'), "sign must be one of higher, lower"),
        (("[c]", "[c]\nmargin = -0.1"), "margin: got -0.1"),
        (("[c]", "[c]\nevaluations = 0"), "evaluations: got 0, expected 1 or more"),
        (("[c]", "[c]\nmargin = nan"), "margin must be a finite number, got nan"),
        (("[c]", '[c]\ndiffers = "lr"'), "differs must be a list, got 'lr'"),
        (("[c]", 'c = "x"\n[d]'), "expected a table"),
    ],
)
def test_a_wrong_claim_is_told(wrong, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        parse(TEXT.replace(*wrong))


scalars = st.one_of(st.booleans(), st.integers(-9, 200), st.floats(), st.text(max_size=6))
values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=3), scalars)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from([f for f in Claim.__dataclass_fields__ if f != "name"]), value=values)
def test_whatever_a_key_holds_a_claim_is_read_or_refused(key, value, monkeypatch):
    """No traceback of another kind, and no claim of a wrong type."""
    from reverie.experiments.studies import claim as module

    row = {**parse_row(), key: value}
    monkeypatch.setattr(module.tomllib, "loads", lambda text: {"c": row})
    try:
        claim = parse("")["c"]
    except ValueError as error:
        assert "claim c" in str(error) or "seeds" in str(error)
    else:
        assert isinstance(claim.steps, int) and isinstance(claim.says, str)


def parse_row():
    import tomllib

    return tomllib.loads(TEXT)["c"]


def test_our_own_claims_can_be_read():
    for claim in parse((HERE / "claims.toml").read_text()).values():
        assert (HERE / "suites" / f"{claim.suite}.toml").exists()


def test_the_verdicts_of_the_claims_that_were_tried():
    """They rest on committed files alone, so a change of the rules or the reader shows here."""
    if not evidence.versions(HERE / "claims.toml"):
        pytest.skip("the history of this package is not here")
    got = {v.claim.name: v for v in verdicts(HERE / "claims.toml", HERE / "results")}
    for name, state, start in (
        ("layernorm", "stands", "1,154.1 against -11.0: difference 1,165.1 (671.4 to 1,658.8)"),
        ("ncap", "stands", "847.7 against 766.2: difference 81.5 (77.7 to 85.3)"),
        ("oer", "undecided", "1.046 against 1.022: difference 0.024 (-0.007 to 0.056)"),
    ):
        assert got[name].state == state and got[name].detail.startswith(start)


MATRICES = """[c]
says = "x beats y"
suite = "s"
matrices = ["t", "u"]
sources = 1
better = "x"
than = "y"
"""
DRAWN = """name = "s"
seeds = "0:1"
[[arms]]
name = "a"
method = "mine.a"
set = { lr = 1.0 }
[[tasks]]
name = "t"
env = "reverie/E-v0"
steps = 100
[[tasks]]
name = "u"
env = "reverie/F-v0"
steps = 100
"""


def draw(folder, task, env, gaps, **changes):
    """Write a matrix whose source 0 is better than 1 by these, as `reverie compare` keeps it."""
    path = put(folder, "a", 0, 1.0, config__env=env, **changes)
    for old in (path, path.with_suffix(".json")):
        old.rename(old.with_name(f"{task}-s0{old.suffix}"))
    rows = torch.tensor([gaps, [0.0, 0.0]], dtype=torch.float64)[:, None].repeat(1, 2, 1)
    card = MatrixCard(env, ("gear",), 100, (0, 1))
    Matrix(rows, torch.tensor([[0.0], [1.0]], dtype=torch.float64), card).save(
        folder / "results" / "s" / f"a-{task}-s0"
    )
    picks = {"picks": {"1": {"x": [[0], [0]], "y": [[1], [1]]}}}
    (folder / "results" / "s" / f"a-{task}-s0.report.json").write_text(json.dumps(picks))


def test_a_claim_of_matrices_stands_on_committed_ones_drawn_after_it(tmp_path):
    """Differences .2, .3 and .4, .5: .35, each mean's variance .0025, half weights, 2 degrees.

    .35 -+ 4.3027 x sqrt(2 x .25 x .0025).
    """
    (tmp_path / "suites").mkdir()
    again(tmp_path, MATRICES, DRAWN)
    draw(tmp_path, "t", "reverie/E-v0", (0.2, 0.3))
    assert verdict(tmp_path).detail == "1 of 2 matrices"
    draw(tmp_path, "u", "reverie/F-v0", (0.4, 0.5))
    v = verdict(tmp_path)
    assert v.state == "results not committed"
    commit(tmp_path)
    v = verdict(tmp_path)
    assert v.state == "stands" and v.detail.startswith("difference 0.350 (0.198 to 0.502) of 2 ma")
    report = tmp_path / "results" / "s" / "a-u-s0.report.json"
    whole = report.read_text()
    report.write_text(whole.replace("[[0]", "[[1]"))
    assert verdict(tmp_path).state == "results not committed"  # nor may picks be touched
    report.write_text("{}")
    assert verdict(tmp_path).state == "cannot be read"
    report.write_text(whole)
    for changes, state, text in (
        ({"started": BEFORE - timedelta(seconds=1)}, "too late", "the matrix u was begun"),
        ({"revision": "abc123-dirty"}, "code not clean", "abc123-dirty"),
        ({"config__lr": 0.5}, "other settings", "lr is 0.5, not 1.0"),
        ({"config__seed": 1}, "other settings", "seed is 1"),
        ({"status": "running"}, "incomplete", "1 of 2 matrices"),
    ):
        draw(tmp_path, "u", "reverie/F-v0", (0.4, 0.5), **changes)
        v = verdict(tmp_path)
        assert v.state == state and text in v.detail
    draw(tmp_path, "u", "reverie/F-v0", (0.4, 0.5))
    card = tmp_path / "results" / "s" / "a-u-s0.json"
    card.write_text(card.read_text().replace('"budget": 100', '"budget": 90'))
    v = verdict(tmp_path)
    assert v.state == "other settings" and "its card is of 90 steps of reverie/F-v0" in v.detail
    again(tmp_path, MATRICES.replace("[c]", "[d]"), DRAWN.replace("0:1", "0:2"))
    assert verdict(tmp_path).state == "no suite"


def test_claims_installed_without_their_history_are_not_checked(tmp_path, monkeypatch):
    """a is 2, 3 and 4 above b: it stands, if only it could be told when it was claimed."""
    results = claimed(tmp_path).parent
    monkeypatch.setattr(claims_module, "HERE", tmp_path)
    (v,) = claims_module.verdicts(tmp_path / "claims.toml", results)
    assert v.state == "stands"
    shutil.rmtree(tmp_path / ".git")
    (v,) = claims_module.verdicts(tmp_path / "claims.toml", results)
    assert (
        v.state == "not checked"
        and "3.000 (0.516 to 5.484), 3 pairs; by the numbers stands" in v.detail
    )
    assert v.t.difference == 3
    (results / "s" / "a" / "E-v0-s1.csv").unlink()
    (v,) = claims_module.verdicts(tmp_path / "claims.toml", results)
    assert (v.state, v.detail) == ("incomplete", "2 of 3 pairs")
    monkeypatch.setattr(claims_module, "HERE", tmp_path / "elsewhere")  # somebody's own claims
    assert claims_module.verdicts(tmp_path / "claims.toml", results)[0].state == "not committed"
