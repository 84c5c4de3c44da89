"""Files that another machine has written and this one does not see yet.

Network file systems remember for a while what a folder held, and that a name was not there (NFS up to a minute, ``acdirmax``): a
file of the round before is then late, not lost. Listing its folder makes a client ask again.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

__all__ = ["until_seen", "wait_for_files"]

log = logging.getLogger(__name__)

# Seconds that a file of the run folder may be late: more than the minute for which NFS clients trust what they know of a folder.
LATE = 75.0
# Seconds between two looks, first and longest.
PAUSES = (0.2, 5.0)

Result = TypeVar("Result")
# When a process waited in vain for a file of a run folder: for as long again what is not there is missing, and other parts say so
# at once.
_in_vain: dict[Path, float] = {}


def until_seen(root: Path, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, called again while a file of the run folder is missing, for `LATE` seconds; it must not mind that.

    Raises
    ------
    Exception
        What ``work`` raises otherwise, and at the end of the time.
    """
    pauses = _Pauses(root)
    while True:
        try:
            return work()
        except Exception as error:
            path = _late_file(error, root)
            if path is None or not pauses.wait(path):
                raise


def wait_for_files(root: Path, names: Iterable[str]) -> str | None:
    """Wait until all these files of the run folder are seen from here; the name of one that is not after `LATE` seconds."""
    pauses = _Pauses(root)
    for name in names:
        while not (root / name).exists():
            if not pauses.wait(root / name):
                return name
    return None


class _Pauses:
    """Longer and longer pauses for a file, and one word in the log."""

    def __init__(self, root: Path) -> None:
        self.root, self.path, self.began, self.pause = root, Path(), 0.0, PAUSES[0]

    def wait(self, path: Path) -> bool:
        """Wait for a moment and make the system look at the folder again; whether there was time left for it."""
        now = time.monotonic()
        if path != self.path:
            self.path, self.began, self.pause = path, now, PAUSES[0]
            if now - _in_vain.get(self.root, -math.inf) < LATE:
                return False
            log.info("%s is not there yet: waiting up to %.0f s, since a shared disk may be slow", path, LATE)
        if now - self.began > LATE:
            _in_vain[self.root] = now
            return False
        time.sleep(self.pause)
        self.pause = min(2 * self.pause, PAUSES[1])
        with suppress(OSError):
            os.listdir(path.parent)
        return True


def _late_file(error: BaseException | None, root: Path) -> Path | None:
    """The file of the run folder whose absence stands in the chain of causes; None where there is none."""
    while error is not None:
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno == errno.ESTALE):
            # pyarrow and zarr name it in their text alone; a run folder may be known by several names.
            named = [str(error.filename)] if error.filename else re.findall(r"[^\s'\":,]*/[^'\":,]*", str(error))
            inside = (Path(name) for name in named if Path(name).resolve().is_relative_to(root.resolve()))
            return next(inside, None)
        error = error.__cause__ or error.__context__
    return None
