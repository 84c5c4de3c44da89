"""Who may work: greets the workers, sends away those that cannot do the work, and wraps each task with the question."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distributed import Client, get_worker

from dpm.execute.base import ClusterError, Function, Outcome, attempt
from dpm.execute.handshake import Question, WorkerFacts, answer, ask_here, objection
from dpm.execute.hung import time_limit

__all__ = ["Door"]

log = logging.getLogger(__name__)

# Workers sent away after which the cluster is at fault: somebody starts the same wrong one again and again.
MOST_REFUSED = 10


@dataclass(frozen=True)
class Guarded:
    """A function with the question that the worker has to answer before, and the task's time limit."""

    function: Function
    question: Question
    seconds: float | None
    hung: str

    def __call__(self, task: Any) -> Outcome:
        """What runs on a worker."""
        text = ask_here(self.question)
        if text:
            return Outcome(error=text, worker=get_worker().address, refused=True)
        with time_limit(self.seconds, Path(self.hung) if self.hung else None):
            return attempt(self.function, task)


class Door:
    """Greets the workers of one client.

    Parameters
    ----------
    client : distributed.Client
        The connection.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._shared: Path | None = None
        self._question: Question | None = None
        self._greeted: dict[str, str] = {}
        self._refused = 0

    def greet(self, shared: Path | None) -> None:
        """Ask all workers that were not asked yet.

        Raises
        ------
        ClusterError
            If one of the first workers cannot do the work, or none of those that came later can.
        """
        if self._question is None or shared != self._shared:
            self.close()
            self._shared, self._question = shared, Question.leave(shared)
            self._greeted.clear()
        new = [address for address in self.client.nthreads() if address not in self._greeted]
        if not new:
            return
        first = not self._greeted
        try:
            answers = self.client.run(answer, self._question, workers=new, on_error="return")
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"the workers do not answer: {error}") from error
        for address, facts in answers.items():
            if isinstance(facts, OSError):
                continue  # It went away meanwhile; should it come back, its tasks ask it.
            text = self._objection(facts)
            if text and first:
                raise ClusterError(f"worker {_who(address, facts)} is refused: {text}")
            if text:
                self.send_away(Outcome(error=text, worker=address, refused=True))
            else:
                self._greeted[address] = facts.processor
        kinds = sorted(set(self._greeted.values()))
        if len(kinds) > 1 and any(address in self._greeted for address in new):
            text = "workers have %d kinds of processor (%s): the same bits are promised on one kind only"
            log.warning(text, len(kinds), "; ".join(kinds))

    def _objection(self, facts: WorkerFacts | Exception) -> str:
        if isinstance(facts, ImportError | AttributeError):
            return f"dpm is not installed there, or another version of it: {facts}"
        if isinstance(facts, Exception):
            return f"{type(facts).__name__}: {facts}"
        assert self._question is not None
        return objection(self._question, facts)

    def send_away(self, outcome: Outcome) -> None:
        """Retire the worker that gave this outcome.

        Raises
        ------
        ClusterError
            If `MOST_REFUSED` were sent away before.
        """
        self._refused += 1
        text = f"worker {outcome.worker} is refused: {outcome.error}"
        if self._refused > MOST_REFUSED:
            raise ClusterError(f"{self._refused} workers were sent away, the last one: {text}; finished parts are kept")
        log.warning("%s; the others go on", text)
        try:
            self.client.retire_workers([outcome.worker], close_workers=True, remove=True)
        except (OSError, TimeoutError, KeyError) as error:
            log.debug("retiring %s: %s", outcome.worker, error)

    def guarded(self, function: Function, name: str, seconds: float | None) -> Guarded:
        """The function as it is sent to workers, for the task of this name."""
        assert self._question is not None
        hung = self.hung_file(name) if seconds is not None else None
        return Guarded(function, self._question, seconds, "" if hung is None else str(hung))

    def hung_file(self, name: str) -> Path | None:
        """Where a task that takes too long leaves what it was at."""
        return None if self._shared is None else self._shared.resolve() / f"hung-{quote(name, safe='')}.txt"

    def close(self) -> None:
        """Take the file of the question away."""
        if self._question is not None:
            self._question.remove()
            self._question = None


def _who(address: str, facts: WorkerFacts | Exception) -> str:
    return f"{address} on {facts.host}" if isinstance(facts, WorkerFacts) else address
