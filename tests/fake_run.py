"""The ``dpm`` command with the stages of `fake_stages`, for tests that need a process of their own."""

import signal

import dpm.cli.run
import dpm.stages
from dpm.cli.main import main

if __name__ == "__main__":
    # A shell starts what it puts in the background with Ctrl-C ignored, and the tests may run there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dpm.stages.STAGES = ("fake_stages.numbers", "fake_stages.scaled", "fake_stages.total")
    dpm.cli.run.report_step = lambda: ("report", lambda folder: None, ())
    main()
