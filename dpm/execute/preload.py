"""What a worker of dpm's own local cluster does before its first task (Dask loads this by its ``preload`` setting)."""

from __future__ import annotations

import logging
from typing import Any


def dask_setup(worker: Any) -> None:
    """Keep Python's warnings off the driver's screen; what matters comes back with each part."""
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logging.NullHandler())
