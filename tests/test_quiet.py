"""Warnings that are left out on one thread do not come back on another."""

import threading
import warnings

from dpm.io.quiet import ignored


def test_threads_do_not_restore_each_others_filters():
    seen, start = [], threading.Barrier(8)

    def read():
        start.wait()
        for _ in range(300):
            with ignored(UserWarning):
                try:
                    warnings.warn("of a reader", UserWarning, stacklevel=1)
                except UserWarning as warning:
                    seen.append(warning)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        filters = list(warnings.filters)
    assert not seen
    assert filters[0][0] == "error"
