"""The one error for input that cannot be used: which file, which key, what is wrong, what to do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["InputError"]


class InputError(ValueError):
    """A file or a setting that cannot be used.

    Parameters
    ----------
    file : str or Path
        The file at fault; empty when a setting is.
    key : str
        Header keyword, extension or configuration key at fault.
    problem : str
        What is wrong, without a full stop.
    advice : str
        What to do about it.
    """

    def __init__(self, file: str | Path, key: str, problem: str, advice: str) -> None:
        self.file = str(file)
        self.key = key
        self.problem = problem
        self.advice = advice
        where = f"{self.file} [{key}]" if self.file else f"[{key}]"
        super().__init__(f"{where}: {problem}. {advice}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str, str]]:
        """Keep all four parts when the error travels between processes."""
        return (InputError, (self.file, self.key, self.problem, self.advice))
