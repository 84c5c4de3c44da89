"""Runs of the stages of `fake_stages`: opened here, or the ``dpm`` command for tests that need a process of their own."""

import signal

import dpm
import dpm.cli.run
import dpm.notebook.run
import dpm.stages
from dpm.cli.main import main

STAGES = ("fake_stages.numbers", "fake_stages.scaled", "fake_stages.total")


def open_fake_run(folder, monkeypatch, files):
    """A run of tiny stages, opened as in a notebook; ``files`` has the words of each input file (`fake_stages.numbers`)."""
    for name, words in files.items():
        (folder / f"{name}.dat").write_text(words)
    (folder / "field.toml").write_text('[input]\nexposures = ["in_*.dat"]\n')
    monkeypatch.setattr(dpm.stages, "STAGES", STAGES)
    monkeypatch.setattr(dpm.notebook.run, "write_report", lambda folder: None)
    monkeypatch.setattr(dpm.notebook.run, "REPORT_FILES", ())
    return dpm.open(folder / "field.toml")


if __name__ == "__main__":
    # A shell starts what it puts in the background with Ctrl-C ignored, and the tests may run there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dpm.stages.STAGES = STAGES
    dpm.cli.run.report_step = lambda: ("report", lambda folder: None, ())
    main()
