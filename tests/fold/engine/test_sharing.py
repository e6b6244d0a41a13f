"""Work is shared by the cores, in one level: what is at work at once takes memory."""

import threading
import time

from linjax.fold.engine import sharing


def test_tasks_of_tasks_are_not_more_at_once_than_there_are_cores(monkeypatch):
    monkeypatch.setattr(sharing, "cores", lambda: 3)
    lock, busy, most = threading.Lock(), 0, 0

    def inner(n):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.01)
        with lock:
            busy -= 1
        return n

    def outer(n):
        return sharing.at_once(inner, [10 * n + m for m in range(3)], [1e9] * 3)

    found = sharing.at_once(outer, range(6), [1e9] * 6)
    assert found == [[10 * n + m for m in range(3)] for n in range(6)]
    assert 1 < most <= 3
    assert sharing.at_once(inner, range(6), [1e9] * 6) == list(range(6))  # and on all of them again
