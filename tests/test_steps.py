"""The longest step of the run loop, in the CPU time of its thread."""

from types import SimpleNamespace

import pytest
import trio

from triocast import steps as steps_module
from triocast.steps import WINDOW_SECONDS, StepMeter, StepStats


class Machine:
    """Two clocks. Work takes both on; waiting only the one on the wall."""

    def __init__(self) -> None:
        self.wall = self.cpu = 1_000.0

    def work(self, ms: float) -> None:
        self.wall += ms / 1_000
        self.cpu += ms / 1_000

    def wait(self, ms: float) -> None:
        self.wall += ms / 1_000


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    clocks = SimpleNamespace(perf_counter=lambda: machine.wall, thread_time=lambda: machine.cpu)
    monkeypatch.setattr(steps_module, "time", clocks)
    return machine


@pytest.fixture
def meter(machine):
    return StepMeter()


def one_pass(meter, *steps):
    for step in steps:
        meter.before_task_step(None)
        step()
    meter.before_io_wait(0)


def figures(meter):
    found = meter.statistics()
    return round(found.longest * 1_000, 2), round(found.longest_lately * 1_000, 2)


def test_it_is_the_longest_of_all_steps(machine, meter):
    one_pass(meter, *[lambda ms=ms: machine.work(ms) for ms in (1, 7, 3)])
    one_pass(meter, lambda: machine.work(5))
    assert figures(meter) == (7, 7)


def test_many_short_steps_are_no_long_one(machine, meter):
    one_pass(meter, *[lambda: machine.work(0.1)] * 1_000)
    assert figures(meter) == (0.1, 0.1)


def test_what_other_processes_take_does_not_count(machine, meter):
    def be_kept_waiting() -> None:
        machine.work(2)
        machine.wait(500)

    one_pass(meter, lambda: machine.work(1), be_kept_waiting, lambda: machine.work(1))
    assert figures(meter) == (2, 2)


def test_what_the_loop_itself_does_between_two_passes_is_no_step(machine, meter):
    one_pass(meter, lambda: machine.work(1))
    machine.work(50)
    machine.wait(50)
    one_pass(meter, lambda: machine.work(2))
    assert figures(meter) == (2, 2)


def test_work_right_before_a_step_adds_a_quarter_of_a_millisecond_at_the_most(machine, meter):
    def be_kept_waiting() -> None:
        machine.work(2)
        machine.wait(50)

    one_pass(meter, *[lambda: machine.work(0.06)] * 10, be_kept_waiting)
    found, _ = figures(meter)
    assert 2 <= found <= 2.25


def test_the_second_figure_looks_back_a_minute(machine, meter):
    one_pass(meter, lambda: machine.work(9))
    machine.wait(WINDOW_SECONDS * 800)
    one_pass(meter, lambda: machine.work(4))
    assert figures(meter) == (9, 9)
    machine.wait(WINDOW_SECONDS * 400)
    one_pass(meter, lambda: machine.work(1))
    assert figures(meter) == (9, 4)
    machine.wait(WINDOW_SECONDS * 5_000)
    assert figures(meter) == (9, 0)


def test_it_begins_anew_on_request(machine, meter):
    meter.before_task_step(None)
    machine.work(30)
    meter.restart()
    machine.work(1)
    meter.before_io_wait(0)
    assert figures(meter) == (1, 1)


async def test_it_measures_the_loop_that_it_is_added_to(nursery, machine, meter):
    async def work() -> None:
        machine.work(12)
        await trio.lowlevel.checkpoint()
        machine.work(3)

    trio.lowlevel.add_instrument(meter)
    nursery.start_soon(work)
    await trio.testing.wait_all_tasks_blocked()
    trio.lowlevel.remove_instrument(meter)
    assert figures(meter) == (12, 12)
    assert meter.statistics() == StepStats(pytest.approx(0.012), pytest.approx(0.012))
