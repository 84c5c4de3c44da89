"""Finished parts of a stage: one small JSON a task in ``work/<stage>/<key>/``, and what makes it on a worker."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Hashable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dpm.execute.base import bytes_moved, peak_memory
from dpm.io.run_folder import RunFolder
from dpm.run.files import read_json, write_json
from dpm.run.late import until_seen, wait_for_files
from dpm.stages.base import Task

__all__ = ["Part", "PartWorker", "Parts", "needs_compiling"]

PLAN, FINISHED, CONTENT, OBSOLETE = "_plan.json", "_finished.json", "_key.json", "_obsolete.json"


@dataclass(frozen=True)
class Part:
    """What is kept of one finished task.

    ``cpu_seconds``, ``bytes_read`` and ``bytes_written`` are the process's while the task ran: exact where a process does one
    task at a time.
    """

    name: str
    result: dict[str, Any]
    seconds: float
    peak_memory: int
    warnings: list[str]
    host: str
    finished: str
    cpu_seconds: float = 0.0
    bytes_read: int = 0
    bytes_written: int = 0


class Parts:
    """The folder of one stage's plan and finished parts under one key.

    Parameters
    ----------
    folder : RunFolder
        The run.
    stage : str
        Name of the stage.
    key : str
        The stage's key.
    """

    def __init__(self, folder: RunFolder, stage: str, key: str) -> None:
        self.root = folder.root
        self.stage = stage
        self.path = folder.work / stage / key

    def suspend_others(self) -> None:
        """Planning is about to change files: what was planned and finished under other keys no longer stands.

        Their parts stay until `begin`, so that a plan that fails costs nothing.
        """
        for other in self.path.parent.glob("*"):
            if other.is_dir() and other != self.path:
                finished = read_json(other / FINISHED)
                if finished is not None:
                    write_json(other / OBSOLETE, finished.get("files", []))
                (other / FINISHED).unlink(missing_ok=True)
                (other / PLAN).unlink(missing_ok=True)

    def begin(self, content: dict[str, Any]) -> None:
        """Make the folder and drop the checkpoints of any other key: their files in the run folder are about to be
        replaced.

        The names of those files are kept, so that `finish` can remove the ones that the new key no longer makes.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / CONTENT, content)
        others = [other for other in self.path.parent.glob("*") if other.is_dir() and other != self.path]
        obsolete = set(read_json(self.path / OBSOLETE) or [])
        for other in others:
            obsolete.update(read_json(other / OBSOLETE) or [])
            for name in other.glob("*.json"):
                record = read_json(name)
                if isinstance(record, dict):
                    made: dict[str, Any] = record.get("result") or record
                    obsolete.update(made.get("files", ()))
        if obsolete:
            write_json(self.path / OBSOLETE, sorted(obsolete))
        for other in others:
            shutil.rmtree(other, ignore_errors=True)

    def previous_content(self) -> dict[str, Any] | None:
        """What went into the key of the parts that are there under another key, or None."""
        for other in sorted(self.path.parent.glob(f"*/{CONTENT}")):
            if other.parent != self.path:
                return read_json(other)
        return None

    def discard(self) -> None:
        """Drop everything of this stage."""
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def save_plan(self, tasks: list[Task]) -> None:
        """Keep the plan: resuming and partitions use the same one."""
        names = [task.name for task in tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"stage {self.stage}: its plan has parts of the same name")
        write_json(self.path / PLAN, [asdict(task) for task in tasks])

    def plan(self) -> list[Task] | None:
        """The kept plan, or None."""
        records = read_json(self.path / PLAN)
        return None if records is None else [Task(**record) for record in records]

    def finished_parts(self, tasks: list[Task]) -> dict[str, Part]:
        """Parts of the plan that are done and whose files still exist, by name; the folder is listed once."""
        try:
            present = set(os.listdir(self.path))
        except FileNotFoundError:
            return {}
        done = {}
        for task in tasks:
            if _file_name(task.name) in present:
                record = read_json(self.path / _file_name(task.name))
                if record is not None and self._files_exist(record["result"]):
                    done[task.name] = Part(**record)
        return done

    def count(self) -> int:
        """How many files lie here: more of them show that somebody is at work."""
        return len(list(self.path.glob("*.json")))

    def finish(self, record: dict[str, Any], results: list[dict[str, Any]]) -> None:
        """Mark the stage as finalised and remove files of earlier keys that it no longer makes."""
        made = {name for result in results for name in result.get("files", ())}
        write_json(self.path / FINISHED, record | {"files": sorted(made)})
        for name in read_json(self.path / OBSOLETE) or []:
            path = (self.root / name).resolve()
            if name in made or not path.is_relative_to(self.root.resolve()):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        (self.path / OBSOLETE).unlink(missing_ok=True)

    def finished(self) -> dict[str, Any] | None:
        """What `finish` kept, or None when the stage is not finalised under this key or its files are gone."""
        record = read_json(self.path / FINISHED)
        return record if record is not None and self._files_exist(record) else None

    def unseen(self, done: Iterable[Part]) -> str | None:
        """Wait until the files that these parts made are seen from here too; what is wrong where one is not."""
        for part in done:
            name = wait_for_files(self.root, part.result.get("files", ()))
            if name is not None:
                return f"{self.root / name}, which part {part.name} wrote on {part.host}, is not seen on {os.uname().nodename}"
        return None

    def _files_exist(self, result: dict[str, Any]) -> bool:
        return all((self.root / name).exists() for name in result.get("files", ()))


@dataclass(frozen=True)
class PartWorker:
    """Runs one task where it is sent and leaves its checkpoint; small enough to go with every task.

    Parameters
    ----------
    module : str
        Dotted path of the stage's module.
    path : str
        Folder of the finished parts.
    """

    module: str
    path: str

    def __call__(self, task: Task) -> Part:
        """Do the work, then write the checkpoint; a part that was finished on a worker that died before it could say so is not
        done again.

        Raises
        ------
        FileNotFoundError
            If this process does not see the run folder, or a file in it, for longer than a slow disk explains.
        """
        return until_seen(Path(self.path).parents[2], lambda: self._do(task))

    def _do(self, task: Task) -> Part:
        path = Path(self.path)
        if not path.is_dir():
            raise FileNotFoundError(
                f"{path}: the worker on {os.uname().nodename} does not see the run folder; use a shared file system"
            )
        checkpoint = path / _file_name(task.name)
        record = read_json(checkpoint)
        if record is not None and all((path.parents[2] / name).exists() for name in record["result"].get("files", ())):
            return Part(**record)
        stage = importlib.import_module(self.module)
        start, cpu = time.perf_counter(), time.process_time()
        read, written = bytes_moved()
        with _Warnings() as warnings:
            result = stage.work(task) or {}
        seconds, cpu, after = time.perf_counter() - start, time.process_time() - cpu, bytes_moved()
        part = Part(
            name=task.name,
            result=result,
            seconds=seconds,
            peak_memory=peak_memory(),
            warnings=warnings.messages,
            host=os.uname().nodename,
            finished=time.strftime("%Y-%m-%dT%H:%M:%S"),
            cpu_seconds=cpu,
            bytes_read=after[0] - read,
            bytes_written=after[1] - written,
        )
        write_json(checkpoint, asdict(part))
        _mark_compiled(self.module)
        # The same now and after a resume: lists for tuples, plain numbers for numpy's.
        return Part(**read_json(checkpoint))


def needs_compiling(module: str) -> Hashable:
    """None when such a machine has run the stage with these kernels before, otherwise its kind's name."""
    from dpm.kernels.jit import cache_folder

    folder = cache_folder()
    return None if (folder / f"compiled-{module}").exists() else str(folder)


def _mark_compiled(module: str) -> None:
    from dpm.kernels.jit import cache_folder

    marker = cache_folder() / f"compiled-{module}"
    if not marker.exists():
        marker.touch()


class _Warnings(logging.Handler):
    """Collects this thread's warnings while a part is at work."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message, once."""
        text = record.getMessage()
        if record.thread == self._thread and text not in self.messages:
            self.messages.append(text)

    def __enter__(self) -> _Warnings:
        logging.getLogger("dpm").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("dpm").removeHandler(self)


def _file_name(task_name: str) -> str:
    return quote(task_name, safe="") + ".json"
