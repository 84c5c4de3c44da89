"""What happens to errors and interrupts of a command: one clear text on the screen, and the exit code."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec

import typer

__all__ = ["guarded", "prepare_process", "say", "show_tracebacks"]

P = ParamSpec("P")

# Set by ``dpm --traceback``.
show_tracebacks = False


def say(text: str) -> None:
    """Write a line to standard error, where progress and errors go."""
    typer.echo(text, err=True)


def guarded(function: Callable[P, Any]) -> Callable[P, None]:
    """Turn what a command raises into its exit code (DESIGN section 5): 1 error, 2 usage, 3 incomplete, 130
    interrupted.
    """

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        from dpm.config import ConfigError
        from dpm.execute import ClusterError, Interrupted
        from dpm.run.errors import RunError

        try:
            function(*args, **kwargs)
        except (KeyboardInterrupt, Interrupted):
            say("\ndpm: interrupted; finished parts are kept, and the same command goes on from there")
            raise typer.Exit(130) from None
        except RunError as error:
            _fail(error, error.exit_code)
        except ConfigError as error:
            _fail(error, 2)
        except (ClusterError, OSError, ValueError) as error:
            _fail(error, 1)
        except (typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            # A defect of dpm's own: its type tells more than its text.
            _fail(error, 1, f"{type(error).__name__}: ")

    return command


def _fail(error: Exception, code: int, kind: str = "") -> None:
    if show_tracebacks:
        traceback.print_exception(error, file=sys.stderr)
    say(f"dpm: {kind}{error}")
    raise typer.Exit(code) from None


def prepare_process() -> None:
    """SIGTERM interrupts, and Python's warnings go to the log file alone, not to the screen."""
    signal.signal(signal.SIGTERM, _interrupt)
    logging.captureWarnings(True)
    # A log file on a full disk must not fill the screen: the error itself says what is wrong.
    logging.raiseExceptions = False
    for name in ("py.warnings", "dpm", "matplotlib"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def _interrupt(number: int, frame: Any) -> None:
    """A batch system's SIGTERM stops a run as Ctrl-C does."""
    raise KeyboardInterrupt
