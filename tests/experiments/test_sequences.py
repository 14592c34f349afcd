"""Tables of continual learning from stored matrices, against values worked out by hand."""

import csv
import math

import pytest
from reported import put

from reverie.experiments.studies import sequences

NAN = math.nan


def played(folder, arm, seed, scores, **more):
    """Store a run of len(scores) tasks: its CSV, stamp and matrix; `more` are further columns."""
    n = len(scores)
    table = {"step": list(range(1, n + 1)), "return": [0.0] * n}
    table |= {f"score{j}": [row[j] for row in scores] for j in range(n)}
    table |= {"bytes": [1000.0] * n, "bytes_total": [3500.0] * n, "learned": [0.5] * n, **more}
    path = put(folder, arm, seed, {"step": [n], "return": [0.0]})
    with path.with_suffix(".tasks.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def study(folder):
    """Three tasks: `keeps` loses .1 and -.2, with seed 1 .3 and 0; `forgets` .5 and .3 more."""
    pairs = [(i, j) for i in range(3) for j in range(3)]
    cosine = {(i, j): 1.0 if i == j else 0.25 if i == 2 else -0.25 for i, j in pairs}
    cosines = {f"conflict_{i}_{j}": [NAN, NAN, value] for (i, j), value in cosine.items()}
    for seed, (a, b) in enumerate(((0.8, 0.7), (0.6, 0.5))):
        rows = lambda x, y: [[0.9, NAN, NAN], [0.0, 0.5, NAN], [x, y, 0.4]]  # noqa: E731
        told = {"per": [0.9, 0.25, a], "forgetting": [0.0, 0.9, 0.1 * seed]}
        played(folder, "keeps", seed, rows(a, b), **told,
               **cosines, conflict_least=[NAN, NAN, -0.25 - seed / 100])  # fmt: skip
        worse = {"per": [0.9, 0.25, a - 0.3 - 0.2 * seed], "forgetting": [0.0, 0.9, 0.5]}
        played(folder, "forgets", seed, rows(a - 0.5, b - 0.3), **worse)
    return folder


def test_the_losses_of_old_tasks_are_told_apart(tmp_path):
    arms = sequences.read_arms(study(tmp_path))
    assert arms["keeps"][0].lost == pytest.approx([0.1, -0.2])
    assert arms["keeps"][1].lost == pytest.approx([0.3, 0.0])
    head, _, forgets, keeps, _ = sequences.means(arms)
    assert head.endswith("| per | forgetting | lost 0 | lost 1 | learned | kB | kB with trunk |")
    # .1 and .3: mean .2, sd .1414, t = 12.706: .2 +- 1.2706
    assert "| keeps | 2 | 0.700 (-0.571 to 1.971) |" in keeps and keeps.endswith("| 1.0 | 3.5 |")
    assert "| 0.200 (-1.071 to 1.471) | -0.100 (-1.371 to 1.171) |" in keeps
    assert "| 0.700 (-0.571 to 1.971) | 0.200 (-1.071 to 1.471) |" in forgets


def test_arms_are_subtracted_over_the_seeds_that_both_have(tmp_path):
    arms = sequences.read_arms(study(tmp_path))
    _, _, line, _ = sequences.pairs(arms, "keeps")
    # per -.3 and -.5; forgetting .5 and .4; lost .5 twice and .3 twice
    assert line.startswith("| forgets | 2 | -0.400 (-1.671 to 0.871) | 0.450 (-0.185 to 1.085) |")
    assert line.endswith("| 0.500 (0.500 to 0.500) | 0.300 (0.300 to 0.300) |")
    del arms["forgets"][1]
    assert len(sequences.pairs(arms, "keeps")) == 3  # one pair has no interval


def test_the_conflict_matrix_is_the_mean_of_the_seeds(tmp_path):
    head, _, first, second, third, _ = sequences.conflicts(sequences.read_arms(study(tmp_path)))
    assert head == "| keeps: cosine, least -0.260 | at mu 0 | at mu 1 | at mu 2 |"
    assert first == "| task 0 | 1.000 | -0.250 | -0.250 |"
    assert second == "| task 1 | -0.250 | 1.000 | -0.250 |"
    assert third == "| task 2 | 0.250 | 0.250 | 1.000 |"


def test_a_long_sequence_is_read_at_quarters(tmp_path):
    scores = [[0.5] * 8 for _ in range(8)]
    for seed in range(2):
        per = [k / 10 + seed for k in range(1, 9)]
        played(tmp_path, "a", seed, scores, per=per, forgetting=[0.0] * 8)
    arms = sequences.read_arms(tmp_path)
    assert sequences.losses(arms) == [] and sequences.conflicts(arms) == []
    head, _, line, _ = sequences.along(arms, "per")
    assert head == "| per | 2 tasks | 4 tasks | 6 tasks | 8 tasks |"
    cells = [cell.split(" (")[0] for cell in line.split(" | ")[1:]]
    assert cells == ["0.700", "0.900", "1.100", "1.300"]


def test_the_command_prints_them_and_says_what_is_not_there(tmp_path, capsys):
    study(tmp_path)
    sequences.main([str(tmp_path), "--less", "forgets", "--seeds", "1"])
    told = capsys.readouterr().out
    assert "| keeps | 1 | 0.600 | 0.100 | 0.300 | 0.000 | 0.500 | 1.0 | 3.5 |" in told
    assert "task 0" in told and "less forgets" in told
    with pytest.raises(ValueError, match="no arm 'none' in it, there are forgets, keeps"):
        sequences.main([str(tmp_path), "--less", "none"])
    with pytest.raises(FileNotFoundError, match="no finished run of these seeds"):
        sequences.main([str(tmp_path), "--seeds", "5"])
    played(tmp_path, "short", 0, [[0.9, NAN], [0.5, 0.5]], per=[1, 1], forgetting=[0, 0])
    with pytest.raises(ValueError, match=r"sequences of \[2, 3\] tasks"):
        sequences.main([str(tmp_path)])
    with pytest.raises(ValueError, match="is the second run of arm forgets, seed 0"):
        sequences.main([str(study(tmp_path / "x")), str(study(tmp_path / "y"))])
    put(tmp_path, "other", 0, {"step": [1], "return": [0.0]})
    with pytest.raises(ValueError, match="has no scores of its tasks beside it"):
        sequences.main([str(tmp_path)])
