"""A stage that iterates: three rounds of two parts; each part of a later round reads what the round before left."""

from pathlib import Path

from dpm.stages.base import Task

NAME = "rounds"
REVISION = 1
PARTITIONED = False
CONFIG = ()
UPSTREAM = ()

LAST = 2


def _tasks(folder, number):
    common = {"root": str(folder.root), "number": number}
    return [Task(NAME, f"r{number}_{part}", common | {"part": part}, cost=0.1) for part in (0, 1)]


def plan(folder, options):
    return _tasks(folder, 0)


def next_round(folder, options, rounds):
    number = len(rounds)
    assert [result["number"] for result in rounds[-1]] == [number - 1] * 2
    return _tasks(folder, number) if number <= LAST else []


def work(task):
    number, part = task.arguments["number"], task.arguments["part"]
    place = Path(task.arguments["root"]) / "work"
    if number == 2 and part == 1 and (place / "stop").exists():
        raise ValueError("told to stop")
    before = int((place / f"left_{number - 1}_{1 - part}").read_text()) if number else 1
    (place / f"left_{number}_{part}").write_text(str(before * 2))
    with open(place / "done.log", "a") as log:
        log.write(f"{task.name}\n")
    return {"number": number, "value": before * 2}


def finalise(folder, options, results):
    return {"parts": len(results), "last": [result["value"] for result in results[-2:]]}
