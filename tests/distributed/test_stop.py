"""Work that a signal breaks off."""

import os
import signal
import threading

import pytest

from open_miipher.distributed import StopSignal, unless_stopped

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@pytest.fixture
def stop():
    """Return what remembers the signals."""
    before = [signal.getsignal(number) for number in NUMBERS]
    yield StopSignal()
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_breaks_it_off_and_nothing_breaks_off_its_clean_up(stop, number):
    steps = []

    def work():
        try:
            signal.raise_signal(number)
            steps.append("went on")
        finally:
            signal.raise_signal(signal.SIGTERM)
            steps.append("cleaned up")

    assert unless_stopped(work) is None
    assert steps == ["cleaned up"]
    assert stop.received == "SIGTERM"


def test_after_a_signal_nothing_is_begun(stop):
    steps = []
    signal.raise_signal(signal.SIGTERM)
    assert unless_stopped(lambda: steps.append("began")) is None
    assert steps == []
    StopSignal()  # as of the next run in this process
    assert unless_stopped(lambda: 5) == 5


def test_ctrl_c_twice_ends_the_clean_up_too(stop):
    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        unless_stopped(work)


def test_without_a_signal_it_returns_and_raises_as_ever(stop):
    def fail():
        raise KeyError

    assert unless_stopped(lambda: 5) == 5
    with pytest.raises(KeyError):
        unless_stopped(fail)
    signal.raise_signal(signal.SIGTERM)  # which breaks off nothing more
    assert stop.received == "SIGTERM"


def test_a_signal_that_is_not_remembered_does_what_it_does(stop):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        unless_stopped(lambda: signal.raise_signal(signal.SIGINT))
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    assert unless_stopped(lambda: signal.raise_signal(signal.SIGTERM) or 5) == 5


def test_in_another_thread_it_is_just_done(stop):
    steps = []

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        return 5

    thread = threading.Thread(target=lambda: steps.append(unless_stopped(work)))
    thread.start()
    thread.join()
    assert steps == [5]
    assert stop.received == "SIGTERM"
