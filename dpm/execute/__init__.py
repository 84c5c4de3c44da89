"""The one layer that talks to Dask: map a function over tasks, serially, on threads or on a cluster, behind one
interface.
"""

from dpm.execute.base import ClusterError, Executor, Interrupted, Outcome
from dpm.execute.create import EXECUTORS, create_executor

__all__ = ["EXECUTORS", "ClusterError", "Executor", "Interrupted", "Outcome", "create_executor"]
