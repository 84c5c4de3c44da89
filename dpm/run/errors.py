"""Errors of a run that end in one clear sentence and an exit code, without a traceback on the screen."""

from __future__ import annotations

__all__ = ["DiskFullError", "IncompleteError", "LockedError", "OtherFieldError", "RunError", "StageFailedError"]


class RunError(RuntimeError):
    """A run cannot go on; the text says why and what to do.  ``exit_code`` is what the command ends with (DESIGN
    section 5).
    """

    exit_code = 1


class LockedError(RunError):
    """Somebody else works on this run folder."""


class DiskFullError(RunError):
    """No space is left; finished parts are kept."""


class StageFailedError(RunError):
    """Some parts of a stage failed; the other parts are done and kept."""


class OtherFieldError(RunError):
    """The run folder holds the run of other exposures, which must not be lost by mistake."""

    exit_code = 2


class IncompleteError(RunError):
    """Something that has to be there first is missing or out of date."""

    exit_code = 3
