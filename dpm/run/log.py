"""The log file of a run, and the warnings to remember."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dpm.io.run_folder import RunFolder

__all__ = ["WarningList", "log_file"]

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class WarningList(logging.Handler):
    """Keeps the text of each warning once, for the provenance and the summary."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message, once."""
        if record.levelno == logging.WARNING:
            self.add(record.getMessage())

    def add(self, text: str) -> bool:
        """Keep a text; returns whether it is new."""
        if text in self.messages:
            return False
        self.messages.append(text)
        return True

    def begin(self) -> None:
        """Forget what was kept: a stage starts."""
        self.messages.clear()

    def since(self) -> list[str]:
        """A copy of the texts kept since `begin`."""
        return list(self.messages)


@contextmanager
def log_file(folder: RunFolder) -> Iterator[WarningList]:
    """Send dpm's log, and Python's captured warnings, into a new file in ``logs/``; yields dpm's warnings."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(
        folder.logs / f"dpm-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log", encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.setLevel(logging.INFO)
    warnings = WarningList()
    logger, captured = logging.getLogger("dpm"), logging.getLogger("py.warnings")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.addHandler(warnings)
    captured.addHandler(handler)
    try:
        yield warnings
    finally:
        captured.removeHandler(handler)
        logger.removeHandler(warnings)
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
