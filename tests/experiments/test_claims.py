"""A claim stands only if it was committed before its runs, and all of its runs are there."""

import csv
import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from reverie.experiments import cli
from reverie.experiments.studies.claims import HERE, committed, parse, verdict_of

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
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def commit(folder, text, when):
    (folder / "claims.toml").write_text(text)
    env = {"GIT_AUTHOR_DATE": when.isoformat(), "GIT_COMMITTER_DATE": when.isoformat()}
    name = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    if not (folder / ".git").exists():
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "add", "."], check=True)
    command = ["git", "-C", str(folder), *name, "commit", "-qm", "x"]
    subprocess.run(command, check=True, env=env)


def put(results, arm, seed, value, started=NOON, status="finished", lr=1.0, rows=(50, 100)):
    path = results / "s" / arm / f"E-v0-s{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "return", "seed"])
        writer.writerows([step, value if step == 100 else 0.0, seed] for step in rows)
    config = {"seed": seed, "lr": lr, "run": {"name": f"E-v0-s{seed}", "threads": 1}}
    stamp = {"started": started.isoformat(), "status": status, "config": config}
    path.with_suffix(".json").write_text(json.dumps(stamp))


@pytest.fixture
def runs(tmp_path):
    for seed in range(4):
        put(tmp_path, "a", seed, 10 + seed)
        put(tmp_path, "b", seed, 5 + seed + 0.1 * seed)
    return tmp_path


CLAIM = parse(TEXT)["c"]
BEFORE = NOON - timedelta(hours=1)


def test_the_sign_of_the_paired_interval_is_the_verdict(runs):
    verdict = verdict_of(CLAIM, runs, BEFORE)
    assert verdict.state == "stands" and "11.5 against 6.650: difference 4.850" in verdict.detail
    for seed in range(4):
        put(runs, "a", seed, 5 + seed + (-1) ** seed)
    assert verdict_of(CLAIM, runs, BEFORE).state == "undecided"
    for seed in range(4):
        put(runs, "a", seed, seed)
    assert verdict_of(CLAIM, runs, BEFORE).state == "refuted"


def test_no_verdict_before_all_runs_are_there(runs):
    put(runs, "b", 3, 1.0, status="running")
    assert verdict_of(CLAIM, runs, BEFORE).detail == "3 of 4 pairs"
    put(runs, "b", 3, 1.0, rows=(50,))
    assert verdict_of(CLAIM, runs, BEFORE).state == "incomplete"


def test_rules_that_a_claim_can_break(runs):
    assert verdict_of(CLAIM, runs, None).state == "not committed"
    assert verdict_of(CLAIM, runs, NOON + timedelta(seconds=1)).state == "too late"
    put(runs, "a", 2, 12, lr=0.5)
    assert verdict_of(CLAIM, runs, BEFORE).state == "mixed settings"


def test_a_claim_is_as_old_as_its_last_change(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(TEXT)
    assert committed(path, CLAIM) is None
    commit(tmp_path, TEXT, BEFORE)
    commit(tmp_path, TEXT + TEXT.replace("[c]", "[d]"), NOON)  # another claim is added
    assert committed(path, CLAIM) == BEFORE
    changed = TEXT.replace("steps = 100", "steps = 50")
    commit(tmp_path, changed, NOON)
    assert committed(path, parse(changed)["c"]) == NOON and committed(path, CLAIM) is None
    later = NOON + timedelta(hours=2)
    commit(tmp_path, TEXT, later)  # back again: as old as that
    assert committed(path, CLAIM) == later


def test_the_command_prints_a_table_and_fails_on_a_broken_rule(tmp_path, runs, capsys):
    repo = tmp_path / "repo"
    repo.mkdir()
    commit(repo, TEXT, BEFORE)
    args = ["claims", "--claims", str(repo / "claims.toml"), "--results", str(runs)]
    assert cli.main(args) == 0
    assert "| a beats b | stands |" in capsys.readouterr().out
    put(runs, "a", 0, 10, started=BEFORE - timedelta(hours=3))
    assert cli.main(args) == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (("metric", "metrik"), "metric"),
        (('better = "a"\n', ""), "lacks better"),
        (('"0:4"', '"103,5"'), "pilot"),
    ],
)
def test_a_wrong_claim_is_told(wrong, text):
    with pytest.raises(ValueError, match=text):
        parse(TEXT.replace(*wrong))


def test_our_own_claims_can_be_read():
    for claim in parse((HERE / "claims.toml").read_text()).values():
        assert (HERE / "suites" / f"{claim.suite}.toml").exists()
