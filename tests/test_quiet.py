"""Warnings that are left out on one thread do not come back on another."""

import threading
import warnings

from dpm.io.quiet import ignored


def test_a_thread_does_not_end_the_quiet_of_another():
    inside, left, seen = threading.Event(), threading.Event(), []

    def first():
        with ignored(UserWarning):
            inside.set()
            # Time for the second thread to get in, were it let in.
            left.wait(0.3)
        left.set()

    def second():
        inside.wait()
        with ignored(UserWarning):
            left.wait(5.0)
            try:
                warnings.warn("of a reader", UserWarning, stacklevel=1)
            except UserWarning as warning:
                seen.append(warning)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=target) for target in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        action = warnings.filters[0][0]
    assert not seen
    assert action == "error"
