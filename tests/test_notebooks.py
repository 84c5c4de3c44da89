"""The notebooks of ``examples/`` run from top to bottom on a local cluster, and what they find is true (slow)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# In this order: the second goes on with the run of the first.
NOTEBOOKS = ("one_epoch", "completeness_and_populations", "two_epochs")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the notebooks leave their fields."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name, place, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks and is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks and is not installed")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    nbformat.write(notebook, place / f"{name}.ipynb")
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    html = "".join("".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    pictures = html.count("data:image/png") + sum("image/png" in output.get("data", {}) for output in outputs)
    print(name, pictures, text)


def test_notebooks_are_committed_without_outputs():
    for name in NOTEBOOKS:
        notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])
