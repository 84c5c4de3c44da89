"""The notebooks of ``examples/`` run from top to bottom on a local cluster, and what they find is true (slow)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

NUMBER = r"([-+]?[0-9.]+)"


def one_epoch(text, pictures):
    """All figures are there, and the field gave a distortion."""
    assert pictures >= 25 and "no distortion was solved" not in text


def completeness_and_populations(text, pictures):
    """Slope and share come out as they went in, within four of their errors."""
    found, recovered = map(int, re.search(r"put in, (\d+) found, (\d+) recovered", text).groups())
    assert found >= recovered > 1000 and pictures >= 10
    slope, error = map(float, re.search(rf"slope {NUMBER} \+- {NUMBER}", text).groups())
    assert abs(slope - 0.2) < 4 * error and error < 0.06
    truth = float(re.search(rf"true share of the blue sequence: {NUMBER}", text)[1])
    for value, error in re.findall(rf": +{NUMBER} \+- {NUMBER}\n", text):
        assert abs(float(value) - truth) < 4 * float(error) and float(error) < 0.1
    fitted = re.findall(rf"(\w+): {NUMBER} \+- {NUMBER}, true {NUMBER}", text)
    assert [row[0] for row in fitted] == ["exponent", "age", "pair_fraction", "companion_fraction"]
    for _, value, error, truth in fitted:
        assert abs(float(value) - float(truth)) < 4 * float(error)


def focus(text, pictures):
    """Exposures have ePSFs of their own, and their centres are nearer to what was simulated than the library's."""
    own, n = map(int, re.search(r"(\d+) of (\d+) exposures", text).groups())
    found = float(re.search(rf"scatter {NUMBER}\n", text)[1])
    library = float(re.search(rf"library instead: scatter {NUMBER}", text)[1])
    assert own >= n - 2 and found < 0.5 * library and pictures >= 3


def two_epochs(text, pictures):
    """The cluster's motion and dispersion."""
    east, north = (re.search(rf"motion to the {name}: {NUMBER} \+- {NUMBER}", text).groups() for name in ("East", "North"))
    for (value, error), true in ((east, 1.9), (north, 0.3)):
        assert abs(float(value) - true) < 4 * float(error) + 0.01
    sigma, error = map(float, re.search(rf"dispersion: {NUMBER} \+- {NUMBER}", text).groups())
    assert abs(sigma - 0.05) < 4 * error and error < 0.005 and pictures >= 8


CHECKS = {
    "one_epoch": one_epoch, "completeness_and_populations": completeness_and_populations, "two_epochs": two_epochs, "focus": focus,
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the notebooks leave their fields."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("name", CHECKS)  # in this order: the second goes on with the run of the first
def test_notebook_runs(name, place, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks and is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks and is not installed")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    html = "".join("".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    pictures = html.count("data:image/png") + sum("image/png" in output.get("data", {}) for output in outputs)
    CHECKS[name](text, pictures)


def test_notebooks_are_committed_without_outputs():
    for name in CHECKS:
        notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook["cells"])
