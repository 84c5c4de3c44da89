"""One part an input file: what the file says decides what happens (a number; wait, slow, fail,
die, poison, full, hungry, hang)."""

import errno
import os
import time
from pathlib import Path

from dpm.stages.base import Task

NAME = "numbers"
REVISION = 1
PARTITIONED = True
CONFIG = ("input.exposures",)
UPSTREAM = ()


def plan(folder, options):
    return [
        Task(NAME, Path(path).stem, {"file": path, "root": str(folder.root)}, cost=0.1)
        for path in options.input.exposures
    ]


def work(task):
    file = Path(task.arguments["file"])
    words = file.read_text().split()
    marker = file.with_suffix(".tried")
    if "fail" in words:
        raise ValueError(f"{file}: not a number")
    if "full" in words:
        raise OSError(errno.ENOSPC, "No space left on device", str(file))
    if "poison" in words or ("die" in words and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), 9)
    if "hang" in words:
        time.sleep(3600)
    hoard = []
    while "hungry" in words:
        hoard.append(bytearray(os.urandom(2**20) * 20))
    if "slow" in words:
        time.sleep(0.4)
    deadline = time.monotonic() + 60
    while "wait" in words and not (file.parent / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    name = f"tables/numbers/{task.name}.txt"
    out = Path(task.arguments["root"]) / name
    out.parent.mkdir(exist_ok=True, parents=True)
    out.write_text(words[0])
    with open(file.with_suffix(".log"), "a") as log:
        log.write("done\n")
    return {"value": int(words[0]), "files": [name]}


def finalise(folder, options, results):
    return {"values": sum(result["value"] for result in results)}
