"""Two rounds over a disk that shows new files late: the parts of the second read what those of the first left, and the driver asks
whether it is there.

A file is written under another name, and a process of its own gives it the right one ``delay`` seconds after its part has
returned: that is what a machine sees whose network file system still trusts what it knows of a folder.
"""

import subprocess
from pathlib import Path

from dpm.stages.base import Task

NAME = "late"
REVISION = 1
PARTITIONED = False
CONFIG = ()
UPSTREAM = ()

NEVER = 1000.0  # seconds


def _tasks(folder, step):
    delay = float((folder.root / "delay").read_text())
    return [Task(NAME, f"{step}_{part}", {"root": str(folder.root), "part": part, "delay": delay}, cost=0.1) for part in (0, 1)]


def plan(folder, options):
    return _tasks(folder, "write")


def next_round(folder, options, rounds):
    return _tasks(folder, "read") if len(rounds) == 1 else []


def work(task):
    step, part = task.name.split("_")
    root = Path(task.arguments["root"])
    name = f"work/{step}_{part}.txt"
    text = "1" if step == "write" else str(2 * int((root / f"work/write_{1 - int(part)}.txt").read_text()))
    hidden = root / "work" / f".{step}_{part}"
    hidden.write_text(text)
    if task.arguments["delay"] < NEVER:
        subprocess.run(["sh", "-c", f"(sleep {task.arguments['delay']}; mv {hidden} {root / name}) > /dev/null 2>&1 &"], check=True)
    # The first round says nothing of its files, as intermediate ones are not said: its readers have to wait.
    return {"files": [name] if step == "read" else []}


def finalise(folder, options, results):
    there = [name for result in results for name in result["files"] if (folder.root / name).exists()]
    return {"there": len(there), "values": [int((folder.root / name).read_text()) for name in there]}
