"""Profiles: what a file may say, and that every mistake in one is named."""

import subprocess
import sys

import pytest

from mrsi_engine.engine.clusters import ClusterChoice, is_address, profile_names, profile_text
from mrsi_engine.engine.clusters.arguments import arguments_for
from mrsi_engine.engine.clusters.libraries import check_keys, check_needs
from mrsi_engine.engine.clusters.profiles import load_profile
from mrsi_engine.engine.clusters.settings import WORKER_ENVIRONMENT, remote_environment
from mrsi_engine.errors import InputError


@pytest.fixture
def profile_of(tmp_path):
    def written(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load_profile(str(path))

    return written


def test_every_kind_of_cluster_is_a_profile():
    assert profile_names() == (
        *("cuda", "gateway", "kubernetes", "local", "lsf", "pbs", "sge", "slurm", "ssh"),
    )


@pytest.mark.parametrize("name", [n for n in profile_names() if n != "cuda"])
def test_shipped_profiles_say_what_their_class_takes(name):
    check_keys(load_profile(name))


@pytest.mark.parametrize("name", profile_names())
def test_what_is_shown_can_be_copied_with_everything_in_it_switched_on(name, profile_of):
    lines = [
        line.removeprefix("# ") if "=" in line or line.startswith("# [") else line
        for line in profile_text(name).splitlines()
    ]
    profile = profile_of("\n".join(lines))
    if name != "cuda":
        check_keys(profile)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cluster", "not a TOML file"),
        ("[cluster]\ncores = 1", "give class, a cluster class of Dask's, or address"),
        ('class = "a.B"\nqueue = "q"', "unknown key 'queue'.*belong under"),
        ('class = "a.B"\n[adapt]\nmaximum = 0', "adapt.maximum.*greater than or equal to 1"),
        ('class = "a.B"\n[adapt]\nminimum = 3\nmaximum = 2', "adapt: minimum is 3"),
        ('class = "a.B"\n[adapt]\nmost = 2\nmaximum = 2', "unknown key 'adapt.most'"),
        ('address = "node1:8786"', "address"),
        ('address = "tcp://a:1"\nclass = "a.B"', "not both"),
        ('address = "tcp://a:1"\n[cluster]\ncores = 1', "cluster and adapt go with class"),
        ('class = "a.B"\n[tls]\nca = "a"\ncert = "b"\nkey = "c"', "tls goes with address"),
        ('address = "tls://a:1"\n[tls]\nca = "a"', "tls.cert: Field required"),
    ],
)
def test_mistakes_in_a_file_are_named(profile_of, text, message):
    with pytest.raises(InputError, match=rf"mine\.toml: .*{message}"):
        profile_of(text)


@pytest.mark.parametrize(
    ("kind", "key", "message"),
    [
        ("dask_jobqueue.SLURMCluster", "qeue", "did you mean 'queue'"),
        ("dask_jobqueue.PBSCluster", "resource_specs", "did you mean 'resource_spec'"),
        ("dask_kubernetes.operator.KubeCluster", "images", "did you mean 'image'"),
        ("distributed.LocalCluster", "memory", "takes no key 'memory'"),
        ("distributed.SSHCluster", "workers_options", "did you mean 'worker_options'"),
        ("dask_jobqueue.SLURMCluster", "security", "cluster.security is not for a profile"),
        ("dask_jobqueue.OARCluster", "walltimes", "did you mean 'walltime'"),
    ],
)
def test_unknown_keys_of_a_class_are_refused_by_name(profile_of, kind, key, message):
    with pytest.raises(InputError, match=message):
        check_keys(profile_of(f'class = "{kind}"\n[cluster]\n{key} = "x"'))


def test_a_missing_library_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(InputError, match=r"pip install 'mrsi-engine\[hpc\]'"):
        ClusterChoice("slurm").check()


def test_a_package_that_no_extra_brings_is_named(profile_of):
    with pytest.raises(InputError, match="pip install nowhere"):
        check_needs(profile_of('class = "distributed.SSHCluster"\nneeds = "nowhere"'))


def test_a_class_that_is_not_there(profile_of):
    with pytest.raises(InputError, match=r"no cluster class dask_jobqueue\.Slurm"):
        check_keys(profile_of('class = "dask_jobqueue.Slurm"'))
    with pytest.raises(InputError, match="pip install nowhere"):
        check_keys(profile_of('class = "nowhere.Cluster"'))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (ClusterChoice("slrum"), "expected cuda, gateway, .* or a TOML file"),
        (ClusterChoice("missing.toml"), r"missing\.toml: no such cluster profile"),
        (ClusterChoice(workers=-1), "workers is -1, expected at least 0"),
        (ClusterChoice("tcp://a:1", workers=2), "those of tcp://a:1 are there already"),
    ],
)
def test_choices_that_cannot_be_opened(choice, message):
    with pytest.raises(InputError, match=message):
        choice.check()


def test_addresses():
    assert is_address("tcp://node1:8786")
    assert is_address("tls://10.0.0.1:8786")
    assert not is_address("s3://bucket")
    assert not is_address("slurm")


def test_job_scripts_say_threads_and_malloc(tmp_path):
    from dask_jobqueue.slurm import SLURMJob

    given = {"cores": 1, "memory": "2GB", "job_script_prologue": ["module load mrsi"]}
    arguments = arguments_for("dask_jobqueue.SLURMCluster")(given, tmp_path / "private", None)
    job = {k: v for k, v in arguments.items() if k not in ("scheduler_options", "security")}
    script = SLURMJob("tls://host:1", name="w", **job).job_script()
    lines = [line for line in script.splitlines() if line.startswith(("export", "module"))]
    assert lines[-1] == "module load mrsi"
    shell = "\n".join([*lines[:-1], "env"])
    told = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True, env={})
    found = dict(line.split("=", 1) for line in told.stdout.splitlines())
    assert {k: found[k] for k in remote_environment()} == remote_environment()
    assert found.items() >= WORKER_ENVIRONMENT.items()
    assert arguments["processes"] == 1
    assert arguments["scheduler_options"]["dashboard_address"] == "127.0.0.1:0"
    assert f"#SBATCH -e {tmp_path}/logs/workers/" in script


def test_dask_reads_the_settings_that_jobs_are_told():
    program = "import dask; c = dask.config.get; print(c('distributed.worker.memory.pause'), "
    program += "c('distributed.comm.retry.count'), c('distributed.comm.timeouts.connect'))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=remote_environment()
    )
    assert done.stdout.split() == ["False", "3", "60s"]


def test_pods_get_the_same_environment(tmp_path):
    made = arguments_for("dask_kubernetes.operator.KubeCluster")
    assert made({"env": {"A": "b"}}, tmp_path, None)["env"] == {**remote_environment(), "A": "b"}
    listed = made({"env": [{"name": "A", "value": "b"}]}, tmp_path, None)["env"]
    assert listed[-1] == {"name": "A", "value": "b"}
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in listed
