"""The end of the process comes in time, whatever the run loop and the disk do."""

import logging
import os
import signal
import threading
import time

import pytest

from triocast.server import ending as module
from triocast.server.ending import EXIT_FAILURE, SIGNALS, Ending, end_now

PATIENCE = 10


class Calls:
    """What an ending called, from whichever thread."""

    def __init__(self):
        self.names = []
        self._came = threading.Event()

    def note(self, name):
        self.names.append(name)
        self._came.set()

    def wait(self, *names):
        deadline = time.monotonic() + PATIENCE
        while self.names != list(names):
            assert time.monotonic() < deadline, self.names
            # For a short time: another thread of pytest may be given a signal, for which Python
            # runs the handler in this one, but not while it waits.
            self._came.wait(0.02)
            self._came.clear()


@pytest.fixture
def calls(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(module, "end_now", lambda why: calls.note(why))
    return calls


@pytest.fixture
def watch(calls):
    def watch(ending):
        return ending.watch(drain=lambda: calls.note("drain"), stop=lambda: calls.note("stop"))

    return watch


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_the_second_stops_and_more_are_as_two(
    calls, watch, monkeypatch, first, second
):
    monkeypatch.setattr(module, "AT_ONCE_SECONDS", 1_000)
    ending = Ending(drain_seconds=1_000)
    with watch(ending):
        send(first)
        calls.wait("drain")
        assert not ending.was_hurried
        send(second)
        calls.wait("drain", "stop")
        assert ending.was_hurried
        send(first)
    assert calls.names == ["drain", "stop"]


def test_after_the_first_signal_the_process_has_the_time_of_the_drain_and_some_grace(
    calls, watch, monkeypatch
):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.01)
    with watch(Ending(drain_seconds=0.02)):
        send(signal.SIGTERM)
        calls.wait("drain", "it did not end within 0.03 s of SIGTERM")


def test_after_the_second_it_has_next_to_none(calls, watch, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE_SECONDS", 0)
    with watch(Ending(drain_seconds=1_000)):
        send(signal.SIGTERM)
        calls.wait("drain")
        send(signal.SIGINT)
        calls.wait("drain", "stop", "it did not end at once at a second SIGINT")


def test_a_thread_of_its_own_takes_signals_so_that_the_main_thread_may_hang(calls, watch):
    """As it does in a system call of SQLite that waits for the disk: no handler runs then."""
    with watch(Ending(drain_seconds=1_000)):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= SIGNALS
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        (listener,) = (each for each in threading.enumerate() if each.name == "signals")
        signal.pthread_kill(listener.ident, signal.SIGTERM)
        calls.wait("drain")


def test_a_thread_that_was_there_before_may_be_given_the_signal(calls, watch):
    """Then Python runs the handler in the main thread."""
    ready, done = threading.Event(), threading.Event()
    early = threading.Thread(target=lambda: (ready.set(), done.wait()), daemon=True)
    early.start()
    ready.wait()
    with watch(Ending(drain_seconds=1_000)):
        signal.pthread_kill(early.ident, signal.SIGTERM)
        calls.wait("drain")
    done.set()
    early.join()


def test_the_earliest_deadline_counts(calls, watch):
    ending = Ending(drain_seconds=1_000)
    with watch(ending):
        ending.end_within(1_000, "late")
        ending.end_within(0, "early")
        ending.end_within(500, "between")
        calls.wait("early")


def test_when_the_server_has_ended_nothing_of_it_is_left(calls, watch):
    def state():
        return (
            signal.pthread_sigmask(signal.SIG_BLOCK, ()),
            [signal.getsignal(number) for number in SIGNALS],
            threading.active_count(),
        )

    before, ending = state(), Ending(drain_seconds=0)
    with watch(ending):
        assert state() != before
        ending.end_within(1_000, "late")
    assert state() == before
    ending.end_within(0, "too late")
    assert calls.names == []


# The hard end.


@pytest.fixture
def codes(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_the_hard_end_is_one_line_and_a_code(codes, caplog):
    end_now("it hangs")
    assert codes == [EXIT_FAILURE]
    assert EXIT_FAILURE != 0
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.getMessage() == "this process ends now, with exit code 1: it hangs"


def test_a_log_that_nobody_reads_does_not_hold_it_up(codes, monkeypatch):
    monkeypatch.setattr(module, "TELL_SECONDS", 0.01)
    read = threading.Event()

    class Stuck(logging.Handler):
        def emit(self, record):
            read.wait()

    stuck = Stuck()
    module.log.addHandler(stuck)
    try:
        end_now("it hangs")
        assert codes == [EXIT_FAILURE]
    finally:
        read.set()
        module.log.removeHandler(stuck)


def test_it_comes_even_if_no_thread_can_be_started(codes, monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    end_now("it hangs")
    assert codes == [EXIT_FAILURE]
