"""Signals to end, as wishes and at once."""

import os
import signal

import pytest

from mrsi_engine.engine.interrupts import interruptible, stoppable
from mrsi_engine.errors import Interrupted


def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_wish_and_the_second_is_none(number):
    before = signal.getsignal(number)
    with stoppable() as stop:
        ask(number)
        assert stop.asked
        with pytest.raises(Interrupted, match=f"stopped by {number.name}.*the same command"):
            stop.check()
        with pytest.raises(Interrupted):
            ask(number)
    assert signal.getsignal(number) is before


def test_one_within_another_is_the_same():
    with stoppable() as outer:
        with stoppable() as inner:
            assert inner is outer
        ask()
        assert outer.asked


def test_inside_a_function_it_raises_but_where_tasks_are_let_end():
    reached = []

    @interruptible
    def work():
        with stoppable() as stop, stop.gently():
            ask()
            reached.append(stop.asked)
        with stop.at_once():
            reached.append("not this")

    with pytest.raises(Interrupted):
        work()
    assert reached == [True]

    @interruptible
    def wait():
        ask()
        reached.append("nor this")

    with pytest.raises(Interrupted):
        wait()
    assert reached == [True]
