"""The project's one way to compile: ``kernel`` is numba's njit with one set of options and a safe cache.

numba's own cache looks only at the file of the compiled function; a change in a function that it calls from another file
leaves a stale caller.  The cache folder is therefore named after a hash of all kernel sources, the CPU model, the numba
version and the user, so that any change, any other kind of node and any other user compiles afresh.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import platform
import tempfile
from pathlib import Path

import numba

__all__ = ["cache_folder", "is_cold", "kernel"]


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
            return folder
    except OSError:
        return _temporary_folder(folder.name)


def _temporary_folder(name: str) -> Path:
    """The cache folder where the home folder cannot be written: this user's own below the folder of temporary files."""
    fallback = Path(tempfile.gettempdir()) / f"dpm-{_user()}" / name
    try:
        fallback.parent.mkdir(mode=0o700, exist_ok=True)
        if fallback.parent.stat().st_uid == os.getuid():
            fallback.mkdir(exist_ok=True)
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
