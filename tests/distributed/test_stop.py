"""Work that a signal breaks off."""

import os
import signal
import threading

import pytest

from open_miipher.distributed import StopSignal, unless_stopped


@pytest.fixture
def remembered():
    """Return the numbers of the stop signals that came, in order."""
    found: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda n, _: found.append(n)) for number in numbers]
    yield found
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_a_signal_breaks_it_off_after_its_clean_up_and_then_does_its_work(remembered):
    steps = []

    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
            steps.append("went on")
        finally:
            signal.raise_signal(signal.SIGINT)  # while it cleans up: it must not break off
            steps.append(list(remembered))

    assert unless_stopped(work) is None
    assert steps == [[]]
    assert remembered == [signal.SIGTERM, signal.SIGINT]
    signal.raise_signal(signal.SIGTERM)
    assert remembered == [signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    assert unless_stopped(lambda: 5) == 5  # nobody knows that the program is to end


def test_after_a_signal_that_is_remembered_nothing_is_begun(remembered):
    usr2 = signal.getsignal(signal.SIGUSR2)
    stop = StopSignal()
    steps = []

    def work():
        steps.append("began")
        signal.raise_signal(signal.SIGTERM)

    assert unless_stopped(work) is None
    assert stop.received == "SIGTERM"
    assert unless_stopped(work) is None
    assert steps == ["began"]
    StopSignal()  # as of the next run in this process
    assert unless_stopped(lambda: 5) == 5
    signal.signal(signal.SIGUSR2, usr2)


def test_without_a_signal_it_returns_and_raises_as_ever(remembered):
    def fail():
        raise KeyError

    assert unless_stopped(lambda: 5) == 5
    with pytest.raises(KeyError):
        unless_stopped(fail)
    assert remembered == []


def test_ctrl_c_is_raised_from_where_it_was_broken_off(remembered):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        unless_stopped(lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored(remembered):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def work():
        signal.raise_signal(signal.SIGTERM)
        return 5

    assert unless_stopped(work) == 5


def test_in_another_thread_it_is_just_done(remembered):
    steps = []

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        return 5

    thread = threading.Thread(target=lambda: steps.append(unless_stopped(work)))
    thread.start()
    thread.join()
    assert steps == [5]
    assert remembered == [signal.SIGTERM]
