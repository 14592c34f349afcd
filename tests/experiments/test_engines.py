"""Which engine is asked for, how far many jobs are, and where their files lie."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from made import same_end
from tiny import config

from reverie.experiments import cli, sac
from reverie.experiments.runs.config import parse
from reverie.experiments.runs.rows import last_step
from reverie.experiments.runs.run import Run
from reverie.experiments.studies import cluster, pool, stores
from reverie.experiments.studies.engines import EngineOptions, engine_of
from reverie.experiments.studies.flight import Flight
from reverie.experiments.studies.jobs import Job

try:
    import ray  # noqa: F401

    RAY = True
except ModuleNotFoundError:
    RAY = False


def test_the_local_engine_is_the_default_and_takes_nothing_of_a_cluster():
    engine = engine_of(EngineOptions(), 3)
    assert (engine.parallel, engine.threads) == (1, 3)
    assert engine_of(EngineOptions(jobs=4), 1).parallel == 4
    for option in ("address", "store", "cpus", "gpus"):
        value = 1.0 if option.endswith("pus") else "x"
        with pytest.raises(ValueError, match=f"--{option} is of a cluster: give --engine ray"):
            engine_of(dataclasses.replace(EngineOptions(), **{option: value}), 1)


@pytest.mark.skipif(RAY, reason="ray is installed")
def test_without_ray_it_says_what_to_install(capsys):
    assert cli.main(["sac", "--seeds", "0:2", "--engine", "ray"]) == 2
    assert "ray is not installed: pip install 'reverie[cluster]'" in capsys.readouterr().err


def test_options_of_several_runs_need_seeds(capsys):
    assert cli.main(["sac", "--engine", "ray"]) == 2
    assert "--engine is for several runs: give --seeds 0:5 too" in capsys.readouterr().err
    options = parse(EngineOptions, ["--cpus", "2", "--gpus", "0.25", "--jobs", "3"], "x")
    assert (options.cpus, options.gpus, options.jobs) == (2.0, 0.25, 3)


class Told:
    """An engine that ends each job at once."""

    def __init__(self):
        self.jobs, self.ended = [], 0

    def submit(self, job):
        self.jobs.append(job)

    def poll(self):
        self.ended += 1
        return [(self.jobs[self.ended - 1], 0)]

    def begun(self):
        return []


def test_seeds_that_may_go_on_elsewhere_have_directories(tmp_path, capsys):
    c = sac.Config(env="reverie/Reacher-v5", run=sac.RunOptions(out=str(tmp_path)))
    for named, name, paths in (
        (True, None, ["sac-Reacher-v5-s3", "sac-Reacher-v5-s5"]),
        (True, "mine", ["mine-s3", "mine-s5"]),
        (False, "mine", None),
    ):
        engine = Told()
        given = dataclasses.replace(c, run=dataclasses.replace(c.run, name=name))
        assert pool.run_seeds("sac", given, [3, 5], engine, named) == 0
        there = [job.path for job in engine.jobs]
        assert there == ([tmp_path / p for p in paths] if paths else [None, None])
        assert [j.config.run.name for j in engine.jobs] == (paths or ["mine-s3", "mine-s5"])
    assert "2 of 2 seeds finished" in capsys.readouterr().out


def test_how_far_many_jobs_are(tmp_path):
    jobs = [Job("sac", dataclasses.replace(sac.Config(), steps=100), tmp_path / n) for n in "abc"]
    begun = jobs[:2]
    flight = Flight(jobs, lambda: begun)
    assert (flight.step, flight.steps) == (0, 300)
    (tmp_path / "a").mkdir()
    rows = '{"step": 20, "time": 0}\n{"step": 60, "time": 0}\n{"step": 80, "ti'
    (tmp_path / "a" / "timing.jsonl").write_text(rows)
    assert last_step(tmp_path / "a") == 60 and last_step(tmp_path / "b") == 0
    assert flight.step == 0  # looked at every other second
    flight.end(jobs[2])
    assert flight.step == 160
    assert flight.text == "1 of 3 runs ended, 2 in flight"
    begun = []
    flight.end(jobs[0])
    flight.end(jobs[1])
    assert flight.step == 300


def test_the_place_of_a_run_on_a_node(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: str(tmp_path / "node"))
    job = Job("sac", sac.Config(), tmp_path / "runs" / "suite" / "a-s0")
    shared = cluster.Place(str(tmp_path), None)
    monkeypatch.chdir("/")
    assert shared.settle(job) == (job, None) and Path.cwd() == tmp_path
    with pytest.raises(FileNotFoundError, match=r"has no /not/there: .* need --store"):
        cluster.Place("/not/there", None).settle(job)
    place = cluster.Place(str(tmp_path), f"file://{tmp_path}/store")
    there, mirror = place.settle(job)
    assert there.path == tmp_path / "node" / "reverie-runs" / "runs" / "suite" / "a-s0"
    assert (there.config.run.out, there.config.run.name) == (str(there.path.parent), "a-s0")
    assert mirror.key == "runs/suite/a-s0"
    assert place.key(Job("sac", sac.Config(), tmp_path.parent / "b")) == "b"


@pytest.mark.parametrize("url", ["memory://bucket/runs", "file://{}/store"])
def test_a_store_holds_what_a_run_directory_holds(url, tmp_path):
    url, run = url.format(tmp_path), tmp_path / "here" / "run"
    (run / "checkpoints" / "step-1").mkdir(parents=True)
    files = {
        "metrics.jsonl": "1\n",
        "lock": "me",
        "lock.3": "free",
        ".stamp.json.tmp": "half",
        "checkpoints/step-1/state.json": "one",
        "checkpoints/step-2.tmp-1/state.json": "half",
    }
    for name, text in files.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(text)
    run.with_name("run.log").write_text("begun\n")
    mirror, back = stores.Mirror(url, "suite/run"), tmp_path / "there" / "run"
    stores.fetch(url, "suite/run", back)
    assert not back.exists()  # nothing there yet
    mirror.push(run)
    stores.fetch(url, "suite/run", back)
    found = {p.relative_to(back).as_posix() for p in back.rglob("*") if p.is_file()}
    assert found == {"metrics.jsonl", "checkpoints/step-1/state.json"}
    assert back.with_name("run.log").read_text() == "begun\n"
    (run / "checkpoints" / "step-1").rename(run / "checkpoints" / "step-3")
    (run / "metrics.jsonl").write_text("1\n2\n")
    (back / "stray").write_text("of an older state")
    mirror.push(run)
    stores.fetch(url, "suite/run", back)
    found = {p.relative_to(back).as_posix() for p in back.rglob("*") if p.is_file()}
    assert found == {"metrics.jsonl", "checkpoints/step-3/state.json"}
    assert (back / "metrics.jsonl").read_text() == "1\n2\n"
    system, root = fsspec.core.url_to_fs(url)
    assert not system.exists(f"{root}/suite/run/checkpoints/step-1/state.json")


class Cut(Exception):
    pass


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A run as it is after two of its checkpoints, and what it ends as."""
    folder = tmp_path_factory.mktemp("stages")
    options = config("sac", folder, "run", steps=600)
    options = dataclasses.replace(
        options, run=dataclasses.replace(options.run, checkpoint_every=60, keep=1)
    )
    real = Run.save

    def save(run, *args):
        saved = real(run, *args)
        if run.step in (120, 240):
            shutil.copytree(run.path, folder / f"{run.step}")
        return saved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save", save)
        sac.main(options)
    return folder, options


@pytest.mark.parametrize(
    "puts", [0, 1, 3, *(pytest.param(i, marks=pytest.mark.slow) for i in range(4, 8))]
)
def test_a_store_is_gone_on_from_wherever_a_copy_is_cut(puts, stages, tmp_path, monkeypatch):
    folder, options = stages
    url, real, done = f"file://{tmp_path}/store", stores.Mirror._put, []

    def put(self, path, name):
        if len(done) == puts + first:
            raise Cut
        done.append(name)
        real(self, path, name)

    here, first = tmp_path / "run", 10**6
    monkeypatch.setattr(stores.Mirror, "_put", put)
    shutil.copytree(folder / "120", here)
    mirror = stores.Mirror(url, "run")
    mirror.push(here)
    first = len(done)
    shutil.rmtree(here)
    shutil.copytree(folder / "240", here)
    with pytest.raises(Cut):
        mirror.push(here)
    shutil.rmtree(here)
    stores.fetch(url, "run", here)
    run = dataclasses.replace(options.run, out=str(tmp_path))
    result = sac.main(dataclasses.replace(options, run=run), resume=True)
    assert same_end(folder / "run", result.path)


def test_seeds_with_other_settings_are_not_gone_on_with(tmp_path, capsys):
    options = config("sac", tmp_path, "mine-s3", seed=3, steps=60)
    sac.main(options)
    given = dataclasses.replace(options, run=dataclasses.replace(options.run, name="mine"))
    assert pool.run_seeds("sac", given, [3], Told(), True) == 0
    other = dataclasses.replace(given, batch_size=options.batch_size + 1)
    with pytest.raises(
        ValueError, match=r"mine-s3 has other settings: batch_size: .* another --name"
    ):
        pool.run_seeds("sac", other, [3], Told(), True)
    with pytest.raises(ValueError, match=r"mine-s3 is a run of 'sac'"):
        pool.run_seeds("td3", given, [3], Told(), True)
    for more in (["--population", "0:2"], ["--restart", str(tmp_path / "mine-s3")]):
        assert cli.main(["sac", *more, "--engine", "ray"]) == 2
        assert "--engine is for several runs: leave it out" in capsys.readouterr().err


def test_what_a_pruned_checkpoint_replaces_stays_in_a_store(tmp_path, monkeypatch):
    """A run prunes while it is copied: the store keeps what it had until the next copy is whole."""
    run, url = tmp_path / "run", f"file://{tmp_path}/store"
    point = run / "checkpoints" / "step-1"
    point.mkdir(parents=True)
    (point / "state.json").write_text("one")
    stores.Mirror(url, "run").push(run)
    point.rename(run / "checkpoints" / "step-2")
    mirror, real = stores.Mirror(url, "run"), stores.Mirror._put
    assert mirror.newest() == "step-1"

    def gone(self, path, name):
        raise FileNotFoundError(path)

    monkeypatch.setattr(stores.Mirror, "_put", gone)
    mirror.push(run)
    assert stores.Mirror(url, "run").newest() == "step-1"
    monkeypatch.setattr(stores.Mirror, "_put", real)
    mirror.push(run)
    later = stores.Mirror(url, "run")
    assert later.newest() == "step-2" and list(later.copied) == ["/checkpoints/step-2/state.json"]


def test_a_job_that_is_lost_too_often_is_given_up(tmp_path, caplog):
    engine = SimpleNamespace(lost={})
    told = [cluster.RayEngine._again(engine, tmp_path, "lost") for _ in range(21)]
    assert told == [None] * 20 + [1]
    assert "the last of 21 times: it is given up" in caplog.text
