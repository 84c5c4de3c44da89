"""Workers as jobs of a batch system, through dask-jobqueue: ``--cluster slurm`` and ``--cluster pbs``.

What a site wants (queue, account, time limit, network, many workers a job) stands in Dask's own file
``~/.config/dask/jobqueue.yaml``; dpm says only what it needs itself.  Jobs that end are asked for again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask

from dpm.execute.base import ClusterError
from dpm.execute.cluster import MALLOC_SETTINGS, THREAD_SETTINGS, dashboard_port
from dpm.execute.security import own_security
from dpm.models.options import ClusterOptions

__all__ = ["queue_cluster"]

CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster"}


def queue_cluster(system: str, options: ClusterOptions) -> Any:
    """A scheduler in this process, and ``[cluster] workers`` workers (2 when not set) as jobs.

    Raises
    ------
    ClusterError
        If dask-jobqueue is not installed, or its configuration does not do.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise ClusterError(f"--cluster {system} needs dask-jobqueue: pip install 'dpm-photometry[cluster]'") from error
    settings = dask.config.get(f"jobqueue.{system}", {})
    security = own_security(options)
    certificates = Path.home() / ".dpm-certificates"
    if security is not None:
        certificates.mkdir(mode=0o700, exist_ok=True)
    environment = dict.fromkeys(THREAD_SETTINGS, 1) | MALLOC_SETTINGS
    given: dict[str, Any] = {
        "cores": settings.get("cores") or 1,
        "memory": settings.get("memory") or options.memory_per_worker,
        # Workers have to reach the scheduler; its dashboard stays on this machine unless the site's file says otherwise.
        "scheduler_options": {"dashboard_address": f"127.0.0.1:{dashboard_port()}"} | (settings.get("scheduler-options") or {}),
        "job_script_prologue": [
            *(f"export {name}={value}" for name, value in environment.items()),
            *(settings.get("job-script-prologue") or []),
        ],
    }
    if settings.get("processes") is None:
        # One thread a worker: memory and compiled kernels are counted per process.
        given["processes"] = given["cores"]
    if security is not None:
        given |= {"security": security, "protocol": "tls://", "shared_temp_directory": str(certificates)}
    try:
        cluster = getattr(dask_jobqueue, CLASSES[system])(**given)
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        raise ClusterError(f"--cluster {system}: {error}") from error
    processes = settings.get("processes") or given["processes"]
    jobs = -(-(options.workers or 2) // processes)
    # At least and at most this many: a job that ends at its time limit is followed by another.
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)
    return cluster
