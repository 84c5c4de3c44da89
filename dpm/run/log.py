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
    """Keeps each warning's text once, for the provenance and the summary."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message, once."""
        self.add(record.getMessage())

    def add(self, text: str) -> None:
        """Keep a text, once."""
        if text not in self.messages:
            self.messages.append(text)


@contextmanager
def log_file(folder: RunFolder) -> Iterator[WarningList]:
    """Send dpm's log, and Python's warnings where they are captured, into a new file in ``logs/``; yields the warnings."""
    folder.logs.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder.logs / f"dpm-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log", encoding="utf-8")
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
