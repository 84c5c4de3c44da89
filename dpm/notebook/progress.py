"""Progress of a run in a notebook: one small table that changes in place."""

from __future__ import annotations

import html
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

from dpm.run.observer import Observer

__all__ = ["NotebookProgress"]

# Seconds between two changes of what is shown.
INTERVAL = 0.3


class NotebookProgress(Observer):
    """Hears a run and shows it where there is a notebook, with a button to stop it where there is ipywidgets.

    Outside a notebook it only keeps count.

    Parameters
    ----------
    cancel : callable
        What the button does.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self.lines: dict[str, dict[str, Any]] = {}
        self.end = ""
        self._display: Any = None
        self._last = 0.0

    def show(self) -> None:
        """Put the table under the notebook's cell; does nothing outside a notebook."""
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython is not None else None
        if shell is not None and type(shell).__name__ == "ZMQInteractiveShell":
            from IPython.display import display

            if importlib.util.find_spec("ipywidgets"):
                self._display = _Widget(self, self._cancel)
            else:
                self._display = display(self, display_id=True)

    def stage_skipped(self, name: str, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        self.lines[name] = {"text": "up to date", "done": 1, "of": 1}
        self._update(now=True)

    def stage_started(self, name: str, n_parts: int, n_done: int, executor: str) -> None:
        """See `Observer`."""
        self.lines[name] = {"text": f"on {executor}", "done": n_done, "of": n_parts}
        self._update(now=True)

    def round_started(self, name: str, n_parts: int, n_done: int) -> None:
        """See `Observer`."""
        self.lines[name] |= {"done": n_done, "of": n_parts}
        self._update()

    def part_finished(self, name: str, part: str, error: str | None) -> None:
        """See `Observer`."""
        self.lines[name]["done"] += 1
        if error is not None:
            self.lines[name]["text"] = f"{part} failed: {error}"
        self._update()

    def stage_finished(self, name: str, seconds: float, summary: dict[str, Any]) -> None:
        """See `Observer`."""
        self.lines[name] |= {"text": f"{seconds:.1f} s", "done": self.lines[name]["of"]}
        self._update(now=True)

    def stopped(self, text: str) -> None:
        """The run is over: complete, or why not."""
        self.end = text
        self._update(now=True)
        if isinstance(self._display, _Widget):
            self._display.button.disabled = True

    def _update(self, now: bool = False) -> None:
        if self._display is not None and (now or time.monotonic() - self._last > INTERVAL):
            self._last = time.monotonic()
            self._display.update(self)

    def __repr__(self) -> str:
        lines = [f"{name:12s} {line['done']}/{line['of']}  {line['text']}" for name, line in self.lines.items()]
        return "\n".join([*lines, self.end]).strip() or "nothing has begun yet"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td>"
            f"<td><progress max='{max(line['of'], 1)}' value='{line['done']}'></progress></td>"
            f"<td>{line['done']} of {line['of']}</td><td>{html.escape(line['text'])}</td></tr>"
            for name, line in self.lines.items()
        )
        return f"<table>{rows}</table><pre>{html.escape(self.end)}</pre>"


class _Widget:
    """The table and a button below it."""

    def __init__(self, progress: NotebookProgress, cancel: Callable[[], None]) -> None:
        import ipywidgets
        from IPython.display import display

        self.table = ipywidgets.HTML(progress._repr_html_())
        self.button = ipywidgets.Button(description="Stop", tooltip="Stop between parts; finished parts are kept")
        self.button.on_click(lambda _: cancel())
        display(ipywidgets.VBox([self.table, self.button]))

    def update(self, progress: NotebookProgress) -> None:
        """Show how it is now."""
        self.table.value = progress._repr_html_()
