"""Warnings of others' readers that say nothing to a user, left out while a file is read."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ignored"]

# The list of filters is the process's: two threads that change it at once restore each other's.
_LOCK = threading.RLock()


@contextmanager
def ignored(category: type[Warning]) -> Iterator[None]:
    """Ignore warnings of a category within the block, which one thread at a time may be in.

    Parameters
    ----------
    category : type of Warning
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
