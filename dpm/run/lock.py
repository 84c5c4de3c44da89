"""Locks of a run folder: one ``dpm run`` at a time; a partition locks its stage and number."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from dpm.run.errors import LockedError

__all__ = ["Lock", "describe_owner", "live_owner"]

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class Lock:
    """A lock file that names its owner.

    The file is held with ``flock``, which the system lets go when the process dies, so that a lock left by a dead
    process is taken over. A lock that names another host is never taken over, since not every network file system
    passes ``flock`` on.

    Parameters
    ----------
    path : Path
        The lock file; its folder is made if need be.
    what : str
        What is locked, for the error.
    facts : dict, optional
        More to write into the file.
    """

    def __init__(self, path: Path, what: str, facts: dict[str, Any] | None = None) -> None:
        self.path = path
        self.what = what
        self.facts = facts or {}
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        LockedError
            If somebody holds it, or left it on another host.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            if not self._hold(descriptor):
                owner = _read(self.path)
                os.close(descriptor)
                raise LockedError(self._describe(owner))
            # The file may have been removed by its owner between the opening and the holding.
            try:
                same = os.stat(self.path).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                same = False
            if not same:
                os.close(descriptor)
                continue
            owner = _read(self.path)
            if owner is not None and owner.get("host") != os.uname().nodename:
                os.close(descriptor)
                raise LockedError(self._describe(owner))
            self._descriptor = descriptor
        me = psutil.Process()
        record = {
            "pid": me.pid,
            "process_started": me.create_time(),
            "host": os.uname().nodename,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": " ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv)),
            **self.facts,
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, (json.dumps(record, indent=1) + "\n").encode(), 0)

    def _hold(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_FLOCK:
                return not _is_alive(_read(self.path))
            return False
        return True

    def _describe(self, owner: dict[str, Any] | None) -> str:
        if owner is None:
            return f"{self.what} is locked: another dpm is just starting there"
        text = describe_owner(self.what, owner)
        if owner.get("host") != os.uname().nodename:
            text += f". If that process is gone, remove {self.path}"
        return text

    def release(self) -> None:
        """Remove the file and let go; does nothing when the lock is not held."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def describe_owner(what: str, owner: dict[str, Any]) -> str:
    """What is locked, by whom, and what to do."""
    who = f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')} ({owner.get('command')})"
    return f"{what} is in use by {who}; wait for it or stop it"


def live_owner(path: Path) -> dict[str, Any] | None:
    """Who holds the lock file, or None when nobody does (or a process of this host that is dead)."""
    owner = _read(path)
    return owner if owner is not None and _is_alive(owner) else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _is_alive(owner: dict[str, Any] | None) -> bool:
    """Whether the owner runs; an owner on another host counts as alive."""
    if owner is None:
        return False
    if owner.get("host") != os.uname().nodename:
        return True
    try:
        return abs(psutil.Process(int(owner["pid"])).create_time() - float(owner["process_started"])) < 2.0
    except (psutil.Error, KeyError, ValueError):
        return False
