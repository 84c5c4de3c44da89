"""Sends what a run says of itself to the scheduler's page, from a thread of its own beside the driver."""

from __future__ import annotations

import logging
import threading
import time

from distributed import Client

from dpm.execute.base import Snapshot
from dpm.execute.dashboard import HANDLER, DashboardPlugin

__all__ = ["Publisher", "page_address"]

log = logging.getLogger(__name__)

# Seconds between two messages: a person looks, no program.
INTERVAL = 1.0
# Seconds that a message, and the last one before the end, may take.
PATIENCE = 5.0


class Publisher:
    """Publishes snapshots of a run until it is closed; what goes wrong here never stops the run.

    Parameters
    ----------
    client : distributed.Client
    snapshot : callable
        ``snapshot(known)`` as `dpm.run.state.RunState.snapshot`.
    """

    def __init__(self, client: Client, snapshot: Snapshot) -> None:
        self._client, self._snapshot = client, snapshot
        self._sent: str | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="run page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the end of it, and stop."""
        self._end.set()
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        try:
            self._client.register_plugin(DashboardPlugin())
        except Exception as error:
            # An older scheduler, one without dpm, or one that takes no plugins.
            log.info("no page of dpm's in this scheduler's dashboard: %s: %s", type(error).__name__, error)
            return
        while True:
            last = self._end.wait(INTERVAL)
            try:
                self._send(last)
            except Exception as error:
                # The scheduler is away or busy: the run's own watchdog says so; the page waits.
                log.debug("the page was not told: %s", error)
            if last:
                return

    def _send(self, last: bool) -> None:
        if self._client.status != "running":
            return
        state = self._snapshot(self._sent)
        if last:
            state["gone"] = time.time()
        send = getattr(self._client.scheduler, HANDLER)
        self._client.sync(send, client=self._client.id, state=state, callback_timeout=PATIENCE)
        if state.get("plan"):
            self._sent = state["plan"]["id"]


def page_address(client: Client) -> str:
    """Where dpm's page is, in words for the log; nothing where the scheduler has no dashboard."""
    try:
        link = client.dashboard_link
    except (KeyError, ValueError):
        return ""
    return f", page {link.removesuffix('/status')}/dpm" if link else ""
