"""A run from Python and from a notebook: ``dpm.open(path)``."""

from dpm.notebook.run import Run, open_run

__all__ = ["Run", "open_run"]
