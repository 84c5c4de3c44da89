"""A worker imports what its stage needs: a thousand workers on a shared disk ask for every file a thousand times."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import importlib, json, sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
import distributed.cli.dask_worker
import dpm.execute.door, dpm.run.parts
dask = len(opened)
importlib.import_module("dpm.stages." + sys.argv[1])
heavy = {name.split(".")[0] for name in sys.modules} & {"matplotlib", "xarray", "numba", "scipy", "pyarrow", "pandas", "IPython"}
print(json.dumps({"dask": dask, "all": len(opened), "heavy": sorted(heavy)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "heavy", "files"),
    [
        ("ingest", set(), 1700),
        ("psf", {"numba", "scipy"}, 2000),
        ("first_pass", {"numba", "scipy", "pyarrow"}, 2000),
        ("frame", set(), 900),
        ("second_pass", set(), 900),
    ],
)
def test_files_that_a_worker_opens_before_its_first_task(stage, heavy, files):
    done = subprocess.run([sys.executable, "-c", SCRIPT, stage], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert set(found["heavy"]) <= heavy
    assert found["all"] < files
