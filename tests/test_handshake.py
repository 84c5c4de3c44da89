"""What a worker has to show before its first task."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from dpm.execute import ClusterError, handshake
from dpm.execute.door import Door
from dpm.execute.handshake import Question, answer, ask_here, objection


class FakeClient:
    """Three workers, each with facts of its own, or the error that they raise instead."""

    def __init__(self, facts):
        self.facts = facts
        self.retired = []

    def nthreads(self):
        return {f"tcp://10.0.0.{n}:40000": 1 for n in range(len(self.facts)) if f"tcp://10.0.0.{n}:40000" not in self.retired}

    def run(self, function, question, workers, on_error):
        assert function is answer and on_error == "return"
        return {address: self.facts[int(address.split(".")[-1].split(":")[0])](question) for address in workers}

    def retire_workers(self, addresses, **_):
        self.retired += addresses


def other(**changes):
    return lambda question: replace(answer(question), **changes)


def test_a_worker_like_the_driver_is_welcome(tmp_path):
    question = Question.leave(tmp_path / "work")
    assert Path(question.file).read_text() == question.nonce
    facts = answer(question)
    assert objection(question, facts) == "" and ask_here(question) == ""
    assert set(facts.versions) == {"python", "dpm", "numpy", "numba", "dask", "distributed"} and facts.processor
    question.remove()
    assert not list((tmp_path / "work").iterdir())


def test_another_disk_of_the_same_name_is_not_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(handshake, "VISIBLE", 0.0)
    question = Question.leave(tmp_path)
    Path(question.file).write_text("somebody else's")
    assert "does not see the run folder" in ask_here(question)
    question.remove()
    assert "use a shared file system" in ask_here(question)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": {"numpy": "1.0"}}, "numba missing"),
        ({"scratch_free": -1}, "cannot write to"),
        ({"scratch_free": 1000}, "0 MB left of the 200"),
    ],
)
def test_objections(tmp_path, changes, words):
    question = Question.leave(tmp_path)
    assert words in objection(question, other(**changes)(question))


def test_the_first_workers_have_to_fit_and_the_refusal_names_the_worker(tmp_path):
    versions = dict(Question("", "").versions, dpm="0.0.1")
    door = Door(FakeClient([other(), other(versions=versions, host="node7")]))
    with pytest.raises(ClusterError, match=r"worker tcp://10.0.0.1:40000 on node7 is refused: it runs dpm 0.0.1 \(the driver has"):
        door.greet(tmp_path)
    door = Door(FakeClient([lambda question: ModuleNotFoundError("No module named 'dpm'")]))
    with pytest.raises(ClusterError, match="dpm is not installed there"):
        door.greet(tmp_path)


def test_later_ones_are_sent_away_and_other_processors_are_warned_of(tmp_path, caplog):
    client = FakeClient([other(processor="one")])
    door = Door(client)
    door.greet(tmp_path)
    client.facts += [other(nonce=""), other(processor="two")]
    with caplog.at_level(logging.WARNING, logger="dpm"):
        door.greet(tmp_path)
    assert client.retired == ["tcp://10.0.0.1:40000"]
    assert "2 kinds of processor (one; two): the same bits are promised on one kind only" in caplog.text
    door.close()
    assert not list(tmp_path.glob("driver-*"))


def test_many_wrong_workers_are_the_clusters_fault(tmp_path):
    client = FakeClient([other()])
    door = Door(client)
    door.greet(tmp_path)
    client.facts += [other(nonce="")] * 20
    with pytest.raises(ClusterError, match="11 workers were sent away"):
        door.greet(tmp_path)
