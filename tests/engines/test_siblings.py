"""Workers of one parent do not each get a memory engine."""

import multiprocessing

import pytest

from triocast.engines.siblings import SiblingRuns, claim_parent


def claim_in_worker(claimed, done) -> None:
    try:
        claim = claim_parent()
    except SiblingRuns as error:
        claimed.send(str(error))
    else:
        claimed.send("claimed")
        done.wait(10)
        assert claim is not None
        claim.close()


@pytest.fixture
def workers():
    context = multiprocessing.get_context("spawn")
    done, started = context.Event(), []

    def start() -> str:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=claim_in_worker, args=(sender, done))
        worker.start()
        started.append(worker)
        assert receiver.poll(20)
        return receiver.recv()

    start.done = done
    start.started = started
    yield start
    done.set()
    for worker in started:
        worker.join(10)


def test_the_second_worker_is_told_why_it_cannot_start(workers):
    assert workers() == "claimed"
    assert "run a single worker" in workers()


def test_the_claim_ends_with_its_worker(workers):
    assert workers() == "claimed"
    workers.done.set()
    workers.started[0].join(10)
    workers.done.clear()
    assert workers() == "claimed"


def test_a_process_of_its_own_claims_nothing():
    assert claim_parent() is None
