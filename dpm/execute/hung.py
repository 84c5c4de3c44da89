"""A limit on the time of one task that holds whatever hangs: Python, compiled code, or a read from a dead disk."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["read_hung", "time_limit"]


@contextmanager
def time_limit(seconds: float | None, path: Path | None) -> Iterator[None]:
    """End this process when the block takes longer; where it stood is left in the file.

    The interpreter's fault handler waits in a thread of its own that needs no lock of Python's. There is one a process: workers
    have one thread each.
    """
    if seconds is None or path is None:
        yield
        return
    with path.open("w") as file:
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    path.unlink(missing_ok=True)


def read_hung(path: Path | None) -> str:
    """Where a task stood when its time was over, and remove the file; empty when it did not come to that."""
    if path is None:
        return ""
    text = ""
    with suppress(OSError):
        text = path.read_text()
        path.unlink()
    return text
