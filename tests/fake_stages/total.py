"""The sum of the scaled numbers, in one part."""

from pathlib import Path

from dpm.stages.base import Task

NAME = "total"
REVISION = 1
PARTITIONED = False
CONFIG = ("photometry",)
UPSTREAM = ("scaled",)


def plan(folder, options):
    return [Task(NAME, "all", {"root": str(folder.root)})]


def work(task):
    root = Path(task.arguments["root"])
    total = sum(float(path.read_text()) for path in sorted(root.glob("tables/scaled_*.txt")))
    (root / "tables" / "total.txt").write_text(str(total))
    return {"total": total, "files": ["tables/total.txt"]}


def finalise(folder, options, results):
    return {"total": results[0]["total"]}
