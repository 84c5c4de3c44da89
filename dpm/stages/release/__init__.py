"""The folder that goes with a paper: ``dpm export --release``.  No stage of a run: it is made from a finished one."""

from dpm.stages.release.contents import PARTS, MissingPartError
from dpm.stages.release.write import write_release

__all__ = ["PARTS", "MissingPartError", "write_release"]
