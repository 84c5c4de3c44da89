"""What every worker has to show before its first task: the driver's folder, the driver's versions, and room for scratch.

The driver leaves a file with a number used once in the shared folder, and each worker has to read that number there: a folder
of the same name on another disk does not do. Every task carries the question along and each process answers it once, so that
no task runs on a worker that came later unasked. Processors may differ, with a warning: compiled kernels round differently on
different models, and the same bits are promised on one only.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from uuid import uuid4

from dpm import __version__

__all__ = ["Question", "WorkerFacts", "answer", "ask_here", "objection"]

# Packages whose version changes results, or what the two sides send each other.
PACKAGES = ("numpy", "numba", "dask", "distributed")
# Seconds until a new file has to be visible: network file systems remember for some seconds that it was not there.
VISIBLE = 10.0
# Free bytes for scratch: compiled kernels (about 60 MB) where the home folder cannot be written, and what Dask spills.
SCRATCH = 200_000_000


@dataclass(frozen=True)
class Question:
    """What the driver expects.

    Parameters
    ----------
    nonce : str
        A number used once; the file holds it too.
    file : str
        Path of that file in the shared folder; empty when nothing is shared.
    versions : dict
        Of python, dpm and `PACKAGES`.
    """

    nonce: str
    file: str
    versions: dict[str, str] = field(default_factory=lambda: _versions())

    @classmethod
    def leave(cls, folder: Path | None) -> Question:
        """Make one, and leave its file in the shared folder."""
        nonce = uuid4().hex
        if folder is None:
            return cls(nonce, "")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.resolve() / f"driver-{nonce[:12]}"
        path.write_text(nonce)
        return cls(nonce, str(path))

    def remove(self) -> None:
        """Remove the file."""
        if self.file:
            Path(self.file).unlink(missing_ok=True)


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker said about itself; ``nonce`` is what it read, ``scratch_free`` in bytes (-1: not writable)."""

    host: str
    nonce: str
    versions: dict[str, str]
    processor: str
    scratch: str
    scratch_free: int


def answer(question: Question) -> WorkerFacts:
    """Look around; this is what runs on a worker."""
    deadline = time.monotonic() + VISIBLE
    nonce = ""
    while question.file:
        try:
            nonce = Path(question.file).read_text()
        except OSError:
            nonce = ""
        if nonce or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    scratch = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=scratch) as file:
            file.write(b"dpm")
            file.flush()
        free = shutil.disk_usage(scratch).free
    except OSError:
        free = -1
    return WorkerFacts(platform.node(), nonce, _versions(), _processor(), scratch, free)


def objection(question: Question, facts: WorkerFacts) -> str:
    """Why a worker cannot do the work; empty when it can."""
    if question.file and facts.nonce != question.nonce:
        folder = Path(question.file).parent
        return f"it does not see the run folder: {folder} there is not the driver's; use a shared file system"
    differ = [
        f"{name} {facts.versions.get(name, 'missing')} (the driver has {version})"
        for name, version in question.versions.items()
        if facts.versions.get(name) != version
    ]
    if differ:
        return f"it runs {', '.join(differ)}: install the same versions in both places"
    if facts.scratch_free < 0:
        return f"it cannot write to {facts.scratch}: set TMPDIR there"
    if facts.scratch_free < SCRATCH:
        return f"{facts.scratch} has {facts.scratch_free / 1e6:.0f} MB left of the {SCRATCH / 1e6:.0f} it needs: set TMPDIR there"
    return ""


_accepted: set[str] = set()


def ask_here(question: Question) -> str:
    """The objection against this process, asked once; empty when there is none."""
    if question.nonce in _accepted:
        return ""
    text = objection(question, answer(question))
    if not text:
        _accepted.add(question.nonce)
    return text


def _versions() -> dict[str, str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, "dpm": __version__} | {name: _version(name) for name in PACKAGES}


@functools.cache
def _processor() -> str:
    """Model of the processor, and a mark that differs where its instruction sets do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    sets = sorted({line for line in lines if line.startswith(("flags", "Features"))})
    return f"{model} ({hashlib.sha256('|'.join(sets).encode()).hexdigest()[:4]})"


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
