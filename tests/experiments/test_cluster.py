"""Ray as an engine: nodes that are lost, stops, stores; against a real cluster on this machine."""

import contextlib
import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
from tiny import config

from reverie.experiments import sac
from reverie.experiments.runs import checkpoint
from reverie.experiments.studies.jobs import Job
from reverie.experiments.studies.pool import LocalEngine, run_jobs

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'reverie[cluster]'")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="module")
def cluster():
    """A head with room for one job, and a node with room for two, which a test may lose."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def node(cluster):
    made = cluster.add_node(num_cpus=2, object_store_memory=10**8)
    cluster.wait_for_nodes()
    yield made
    ray.shutdown()
    if made in cluster.list_all_nodes():
        cluster.remove_node(made)


def engine(cluster, **options):
    from reverie.experiments.studies.cluster import RayEngine

    return RayEngine(cluster.address, **options)


def jobs(out, n, steps=180, **changes):
    """Return short runs of SAC, a checkpoint every 60 steps."""
    work = []
    for seed in range(n):
        c = config("sac", out, f"s{seed}", seed=seed, steps=steps, **changes)
        run = dataclasses.replace(c.run, checkpoint_every=60, log_every=20, threads=1)
        work.append(Job("sac", dataclasses.replace(c, run=run), Path(out, f"s{seed}")))
    return work


def descendants(pid):
    """Return all processes that this one, or one of its own, has started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found[1:]


def lose(cluster, node):
    """Take a node away as a power cut does: nothing of it has a moment to save."""
    (raylet,) = node.all_processes["raylet"]
    for pid in [raylet.process.pid, *reversed(descendants(raylet.process.pid))]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def rows(out, n):
    return [Path(out, f"s{seed}", "metrics.jsonl").read_bytes() for seed in range(n)]


def test_two_jobs_on_two_nodes(cluster, node, tmp_path):
    engine_ = engine(cluster)
    assert engine_.room() == 4  # three CPUs, and one job that waits
    done = run_jobs(jobs(tmp_path / "ray", 2), engine_)
    assert [status for _, status in done] == [0, 0]
    run_jobs(jobs(tmp_path / "here", 2), LocalEngine(2, 1))
    assert rows(tmp_path / "ray", 2) == rows(tmp_path / "here", 2)


def test_a_job_that_fails_says_why(cluster, node, tmp_path, caplog):
    (job,) = jobs(tmp_path, 1)
    broken = dataclasses.replace(job.config, env="reverie/Nowhere-v0")
    done = run_jobs([dataclasses.replace(job, config=broken)], engine(cluster))
    assert done[0][1] == 2
    assert "s0 ended with status 2" in caplog.text and "Nowhere-v0" in caplog.text


def test_a_job_without_a_directory_is_refused(cluster, node):
    with pytest.raises(ValueError, match="needs a directory"):
        engine(cluster).submit(Job("sac", sac.Config()))


@pytest.mark.slow
def test_a_lost_node_costs_no_run(cluster, node, tmp_path, caplog):
    """Twelve runs, a node gone in the middle: no byte differs from the local engine's."""
    n, out = 12, tmp_path / "ray"
    work, lost = jobs(out, n, steps=600), []

    def told(job, status, left):
        if not lost:
            deadline = time.time() + 120
            while not saved_there() and time.time() < deadline:
                time.sleep(0.02)
            assert saved_there(), "nothing with a checkpoint runs on the node that is to be lost"
            lose(cluster, node)
            lost.append({j.path for j in work if saved(j.path)})

    def saved(path):
        return bool(checkpoint.list_checkpoints(path / "checkpoints"))

    def saved_there():
        """Whether a run is under way on the node, and has a checkpoint to go on from."""
        ours = descendants(node.all_processes["raylet"][0].process.pid)
        lines = [Path(f"/proc/{p}/cmdline") for p in ours]
        text = " ".join(line.read_text() for line in lines if line.exists())
        return any(saved(j.path) for j in work if str(j.path) + ".config.json" in text)

    done = run_jobs(work, engine(cluster), told)
    assert sorted(status for _, status in done) == [0] * n
    assert "on a node that is lost" in caplog.text
    for path in lost[0]:  # what had a checkpoint did not begin anew
        timing = (path / "timing.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in timing].count(21) == 1
    run_jobs(jobs(tmp_path / "here", n, steps=600), LocalEngine(2, 1))
    assert rows(out, n) == rows(tmp_path / "here", n)


@pytest.mark.slow
def test_a_stop_is_passed_on_and_heard(cluster, node, tmp_path):
    work = jobs(tmp_path, 5, steps=100_000)
    engine_ = engine(cluster, parallel=5)
    for job in work:
        engine_.submit(job)
    while not all((job.path / "metrics.jsonl").exists() for job in work[:3]):
        assert engine_.poll() == []
        time.sleep(0.1)
    left = engine_.cancel()
    assert [j.path.name for j in left] == ["s3", "s4"]
    for job in work[:3]:
        text = (job.path / "stamp.json").read_text()
        assert '"status": "interrupted"' in text


@pytest.mark.slow
def test_runs_come_back_from_a_store(cluster, node, tmp_path):
    out = tmp_path / "ray"
    engine_ = engine(cluster, store=f"file://{tmp_path}/store")
    assert [s for _, s in run_jobs(jobs(out, 2), engine_)] == [0, 0]
    run_jobs(jobs(tmp_path / "here", 2), LocalEngine(2, 1))
    assert rows(out, 2) == rows(tmp_path / "here", 2)
    engine_.ray.shutdown()
    longer = jobs(out, 2, steps=300)
    done = run_jobs(longer, engine(cluster, store=f"file://{tmp_path}/store"))
    assert [s for _, s in done] == [0, 0]
    run_jobs(jobs(tmp_path / "here", 2, steps=300), LocalEngine(2, 1))
    assert rows(out, 2) == rows(tmp_path / "here", 2)
