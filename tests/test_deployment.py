"""Files under deployment/: valid for their schemas, scripts that parse, and job scripts that ask for what they say."""

import copy
import subprocess
from pathlib import Path

import dask
import pytest

from dpm.execute import ClusterError, create_executor
from dpm.models.options import ClusterOptions

yaml = pytest.importorskip("yaml")

DEPLOYMENT = Path(__file__).resolve().parent.parent / "deployment"


SCRIPTS = sorted(path for path in DEPLOYMENT.rglob("*") if path.suffix in (".sh", ".sbatch", ".pbs"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_kubernetes_objects_are_valid():
    validate = pytest.importorskip("kubernetes_validate").validate
    objects = list(yaml.safe_load_all((DEPLOYMENT / "kubernetes" / "cluster.yaml").read_text()))
    assert [item["kind"] for item in objects] == ["PersistentVolumeClaim", "DaskCluster", "Job"]
    cluster = objects[1]
    plain = [objects[0], objects[2]]
    for role in ("worker", "scheduler"):
        plain.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}, "spec": cluster["spec"][role]["spec"]})
    service = cluster["spec"]["scheduler"]["service"]
    plain.append({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": service})
    for item in plain:
        validate(item, "1.34", strict=True)
    wrong = copy.deepcopy(plain[2])
    wrong["spec"]["containers"][0]["imge"] = wrong["spec"]["containers"][0].pop("image")
    with pytest.raises(Exception, match="imge"):
        validate(wrong, "1.34", strict=True)


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_job_scripts_ask_for_what_the_file_says(system):
    pytest.importorskip("dask_jobqueue")
    from dask_jobqueue.pbs import PBSJob
    from dask_jobqueue.slurm import SLURMJob

    settings = yaml.safe_load((DEPLOYMENT / system / "jobqueue.yaml").read_text())
    with dask.config.set({f"jobqueue.{system}.{key}": value for key, value in settings["jobqueue"][system].items()}):
        script = {"slurm": SLURMJob, "pbs": PBSJob}[system]("tcp://10.0.0.1:8786", name="w").job_script()
    assert all(words in script for words in ("--nthreads 1 ", "--nworkers 16", "--lifetime 110m", "tcp://10.0.0.1:8786"))
    assert ("#SBATCH -t 02:00:00" in script) if system == "slurm" else ("select=1:ncpus=16:mem=32gb" in script)


def test_queue_without_its_package_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dask_jobqueue", None)
    with pytest.raises(ClusterError, match=r"dpm-photometry\[cluster\]"):
        create_executor("slurm", ClusterOptions())
