"""The project's one way to compile: ``kernel`` is numba's njit with one set of options and a safe cache.

numba's own cache looks only at the file of the compiled function; a change in a function that it calls from another file
leaves a stale caller.  The cache folder is therefore named after a hash of all kernel sources, the CPU model, the numba
version and the user, so that any change, any other kind of node and any other user compiles afresh.  The user's folders that
no process has opened for a month are removed.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numba

__all__ = ["cache_folder", "is_cold", "kernel"]

# Days without use after which a cache folder of other sources goes; far above the clocks' differences on shared disks.
UNUSED_DAYS = 30.0
# Hours after which whoever renamed a folder to remove it is not at it any more; above the clocks' differences on shared disks.
ABANDONED_HOURS = 24.0


def _cpu_model() -> str:
    """Name and instruction sets of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "|".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid()) if hasattr(os, "getuid") else "user"


@functools.cache
def cache_folder() -> Path:
    """Folder of compiled kernels for these sources, this CPU model, this numba and this user."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    digest.update(f"{_cpu_model()}|{numba.__version__}|{platform.python_version()}".encode())
    base = os.environ.get("DPM_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    folder = root / "dpm" / f"kernels-{_user()}-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return _temporary_folder(folder.name)
    _mark_used(folder)
    return folder


def _mark_used(folder: Path) -> None:
    """Set the folder's time to now and remove its siblings that were not used for `UNUSED_DAYS`.

    Each is renamed first, which only one thread of one process can do, and looked at again: whoever opened it in between keeps
    it.  Deleting changes a folder's time as well, so that nobody else touches it until its name, which says when it was
    renamed, is `ABANDONED_HOURS` old.  A process that still runs on a removed folder has its kernels in memory, and numba makes
    the folder again to save another.
    """
    with suppress(OSError):
        os.utime(folder)
    ours = re.compile(rf"kernels-{re.escape(_user())}-[0-9a-f]{{16}}(\.removed-(\d+))?")
    now = time.time()
    oldest = now - 86400.0 * UNUSED_DAYS
    with suppress(OSError):
        for other in [path for path in folder.parent.iterdir() if path != folder]:
            match = ours.fullmatch(other.name)
            # Another process may be first at any of these steps.
            with suppress(OSError):
                if match is None or other.is_symlink():
                    continue
                if match[1]:
                    if int(match[2]) < 1e9 * (now - 3600.0 * ABANDONED_HOURS):
                        shutil.rmtree(other, ignore_errors=True)
                    continue
                if other.stat().st_mtime > oldest:
                    continue
                doomed = other.with_name(f"{other.name}.removed-{time.time_ns()}")
                other.rename(doomed)
                if doomed.stat().st_mtime > oldest:
                    doomed.rename(other)
                else:
                    shutil.rmtree(doomed, ignore_errors=True)


def _temporary_folder(name: str) -> Path:
    """The cache folder where the home folder cannot be written: this user's own below the folder of temporary files."""
    fallback = Path(tempfile.gettempdir()) / f"dpm-{_user()}" / name
    try:
        fallback.parent.mkdir(mode=0o700, exist_ok=True)
        if fallback.parent.stat().st_uid == os.getuid():
            fallback.mkdir(exist_ok=True)
            _mark_used(fallback)
            return fallback
    except OSError:
        pass
    # Somebody else took the name: compiled code is not shared with strangers.
    return Path(tempfile.mkdtemp(prefix="dpm-"))


def is_cold() -> bool:
    """Whether no kernel was compiled here before."""
    return not any(Path(_FOLDER).glob("*/*.nbi"))


_FOLDER = str(cache_folder())


def kernel(function):
    """Compile with numba: nopython, without the GIL, cached in dpm's own folder (other packages' caches are left alone)."""
    return _compile(function, {})


def leaf_kernel(function):
    """Compile a kernel that makes no array: without numba's atomic counting of references, a sixth of a star's fit."""
    return _compile(function, {"_nrt": False})


def _compile(function, options):
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _FOLDER
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    finally:
        numba.config.CACHE_DIR = before
