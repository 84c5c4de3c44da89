"""Kills a worker of a local cluster in the middle of its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def killing_one(folder: Path, pattern: str) -> Iterator[None]:
    """Once a file of the pattern is there, the worker that worked most is killed; the block has to outlive that."""
    killed = []

    def kill() -> None:
        while not list(folder.glob(pattern)):
            time.sleep(0.02)
        workers = [p for p in psutil.Process().children(recursive=True) if "spawn" in " ".join(p.cmdline())]
        victim = max(workers, key=lambda process: process.cpu_times().user)
        killed.append(victim.pid)
        victim.kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield
    killer.join(10)
    assert len(killed) == 1
