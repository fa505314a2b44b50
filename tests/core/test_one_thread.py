"""Linear algebra on one thread, whoever else is at it."""

import threading

from threadpoolctl import threadpool_info

from smelt.core.one_thread import one_thread


def test_one_thread_is_kept_while_anyone_is_inside() -> None:
    def threads() -> list[int]:
        return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]

    before = threads()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with one_thread():
        assert set(threads()) == {1}
    assert set(threads()) == {1}, "the other thread is still inside"
    leave.set()
    thread.join()
    assert threads() == before
