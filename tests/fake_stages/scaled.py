"""Each number times ``[find] threshold``."""

from pathlib import Path

from dpm.stages.base import Task

NAME = "scaled"
REVISION = 1
PARTITIONED = False
CONFIG = ("find",)
UPSTREAM = ("numbers",)


def plan(folder, options):
    return [
        Task(NAME, path.stem, {"file": str(path), "root": str(folder.root), "factor": options.find.threshold})
        for path in sorted((folder.tables / "numbers").glob("*.txt"))
    ]


def work(task):
    value = int(Path(task.arguments["file"]).read_text()) * task.arguments["factor"]
    name = f"tables/scaled_{task.name}.txt"
    (Path(task.arguments["root"]) / name).write_text(str(value))
    return {"value": value, "files": [name]}


def finalise(folder, options, results):
    return {"values": sum(result["value"] for result in results)}
