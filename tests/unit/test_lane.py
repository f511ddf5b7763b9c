"""Long predictions on their thread: whose turn it is, who is skipped, and what stays in memory meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from math import inf

import numpy as np
import pytest

from registry.errors import DeadlineError, InvalidFeaturesError, OverloadedError
from registry.model import ModelSchema, ModelVersion, Runtime
from scoremesh.scoring.v1.scoring_pb2 import RESIDENCY_HIT, ScoreRequest
from scorer import lane as lane_module
from scorer.cost_curve import CostCurve
from scorer.engine import Rows
from scorer.in_flight import PREDICT, BlackBox, InFlight
from scorer.lane import Lane, Scored
from scorer.plan import Plan
from scorer.resident import Resident


class GatedModel:
    """Each prediction waits for the gate. `ran`: the first number of each that has begun, in order."""

    resident_bytes = 0

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.ran: list[float] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self.seen: Callable[[], None] = lambda: None

    def predict(self, rows: Rows) -> list[np.ndarray]:
        self.ran.append(float(rows.dense[0, 0]))
        self.threads.add(threading.get_ident())
        self.seen()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return [rows.dense[:, 0] * 2]

    def close(self) -> None: ...


class Desk:
    def __init__(self) -> None:
        self.pins: Counter[str] = Counter()
        self.box = BlackBox()
        self.lane = Lane(self._keep, InFlight(self.box.memory_fd))
        self.model = GatedModel()
        self.costs = CostCurve(1000.0, 0.0, 1000.0)
        schema = ModelSchema(("f",), ())
        self.plan = Plan(ModelVersion("1", "p", "acme", "a", "s", Runtime.ONNX, 1, 1), schema, "me")
        self.resident = Resident(self.model, schema, 1, RESIDENCY_HIT, 1, 1, costs=self.costs)

    def _keep(self, package: str) -> Callable[[], None]:
        self.pins[package] += 1
        return lambda: self.pins.subtract([package])

    def begin(
        self, number: float, tenant: str = "acme", *, rows: int = 1, deadline: float = inf
    ) -> asyncio.Task[Scored]:
        numbers = np.full(rows, number)
        request = ScoreRequest(tenant=tenant, model="m", row_count=rows, dense_double=numbers)
        return asyncio.create_task(self.lane.predict(request, self.plan, self.resident, deadline))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    desk.model.gate.set()
    await desk.lane.aclose()
    assert not desk.lane._jobs
    assert not +desk.pins
    assert desk.lane._room.free == lane_module.CAPACITY_US
    desk.box.close()


async def test_the_loop_goes_on_meanwhile(desk: Desk) -> None:
    waiting = desk.begin(1.0)
    await desk.until(lambda: desk.model.ran == [1.0])
    assert desk.model.threads != {threading.get_ident()}
    assert desk.pins["p"] == 1
    desk.model.gate.set()
    outputs, score_us = await waiting
    assert [output.tolist() for output in outputs] == [[2.0]]
    assert score_us > 0
    assert desk.pins["p"] == 0


async def test_turns_are_fair_between_tenants(desk: Desk) -> None:
    tasks = [desk.begin(number, "many") for number in range(6)]
    await desk.until(lambda: len(desk.model.ran) == 1)
    tasks += [desk.begin(number, "few") for number in (10, 11)]
    await asyncio.sleep(0)
    desk.model.gate.set()
    await asyncio.gather(*tasks)
    assert desk.model.ran[0] == 0
    assert {10, 11} <= {*desk.model.ran[1:5]}
    assert [number for number in desk.model.ran if number < 10] == list(range(6)), "each tenant's in their order"


async def test_what_was_given_up_before_its_turn_is_skipped(desk: Desk) -> None:
    first, second, third = (desk.begin(number) for number in (1.0, 2.0, 3.0))
    await desk.until(lambda: desk.model.ran == [1.0])
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert desk.pins["p"] == 2
    desk.model.gate.set()
    await asyncio.gather(first, third)
    assert desk.model.ran == [1.0, 3.0]


async def test_the_model_stays_until_a_prediction_ends_that_nobody_waits_for(desk: Desk) -> None:
    waiting = desk.begin(1.0)
    await desk.until(lambda: desk.model.ran == [1.0])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert desk.pins["p"] == 1
    desk.model.gate.set()
    await desk.until(lambda: desk.pins["p"] == 0)


async def test_closing_waits_for_the_one_that_runs(desk: Desk) -> None:
    waiting = desk.begin(1.0)
    await desk.until(lambda: desk.model.ran == [1.0])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    closing = asyncio.create_task(desk.lane.aclose())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    assert desk.pins["p"] == 1
    desk.model.gate.set()
    await closing
    assert desk.pins["p"] == 0
    desk.lane = Lane(desk._keep)


@pytest.mark.parametrize(("number", "words"), [(0, "was still running"), (1, "had not begun")])
async def test_a_deadline(desk: Desk, number: int, words: str) -> None:
    loop = asyncio.get_running_loop()
    tasks = [desk.begin(each, deadline=loop.time() + 0.05 if each == number else inf) for each in range(3)]
    await desk.until(lambda: desk.model.ran == [0])
    with pytest.raises(DeadlineError, match=words):
        await tasks[number]
    desk.model.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert desk.model.ran == [each for each in range(3) if each == 0 or each != number]


async def test_deadlines_that_are_over_when_their_turn_comes(desk: Desk) -> None:
    """Also where the loop was too busy to tell them before, and however many they are."""
    first = desk.begin(0.0)
    await desk.until(lambda: desk.model.ran == [0.0])
    soon = asyncio.get_running_loop().time() + 0.05
    late = [desk.begin(number, f"t{number % 7}", deadline=soon) for number in range(1, 400)]
    last = desk.begin(1000.0, "last")
    await asyncio.sleep(0)
    desk.model.gate.set()
    while asyncio.get_running_loop().time() <= soon:  # it stands still
        threading.Event().wait(0.01)
    found = await asyncio.gather(*late, return_exceptions=True)
    assert {type(error) for error in found} == {DeadlineError}
    await asyncio.gather(first, last)
    assert desk.model.ran == [0.0, 1000.0]


async def test_a_full_queue(desk: Desk) -> None:
    """A tenant alone fills half of it; another one finds room nevertheless."""
    tasks = [desk.begin(0.0)]
    await desk.until(lambda: desk.model.ran == [0.0])
    tasks += [desk.begin(number, rows=100) for number in range(1, 40)]
    await desk.until(lambda: sum(task.done() for task in tasks) == 29)
    refused = [task for task in tasks if task.done()]
    with pytest.raises(OverloadedError) as caught:
        await refused[0]
    assert 1000 <= caught.value.retry_after_ms <= 1100, "about what waits: 1 s"
    other = desk.begin(500.0, "other", rows=100)
    desk.model.gate.set()
    await other
    await asyncio.gather(*(task for task in tasks if task not in refused))


async def test_rows_count_by_their_bytes_too(desk: Desk) -> None:
    desk.costs.one_us, desk.costs.row_us = 1.0, 0.001
    tasks = [desk.begin(0.0)]
    await desk.until(lambda: desk.model.ran == [0.0])
    tasks += [desk.begin(number, rows=1 << 20) for number in range(1, 9)]
    await desk.until(lambda: any(task.done() for task in tasks))
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 4, "four of 8 MiB are half of 64 MiB"
    desk.model.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(each, OverloadedError) for each in found) == 4


async def test_what_the_model_raises_reaches_its_caller_alone(desk: Desk) -> None:
    desk.model.error = ValueError("no")
    desk.model.gate.set()
    with pytest.raises(ValueError, match="no"):
        await desk.begin(1.0)
    desk.model.error = None
    assert (await desk.begin(2.0))[0][0].tolist() == [4.0]


async def test_a_request_that_says_more_rows_than_it_has(desk: Desk) -> None:
    """It takes no more room than it has bytes, and fails as it would elsewhere."""
    request = ScoreRequest(tenant="acme", model="m", row_count=4_000_000_000, dense_double=[1.0])
    first = desk.begin(0.0)
    await desk.until(lambda: desk.model.ran == [0.0])
    lying = asyncio.create_task(desk.lane.predict(request, desk.plan, desk.resident, inf))
    await asyncio.sleep(0)
    assert desk.lane._room.free > 0.9 * lane_module.CAPACITY_US
    desk.model.gate.set()
    with pytest.raises(InvalidFeaturesError):
        await lying
    await first


async def test_what_predictions_took_is_learnt(desk: Desk) -> None:
    desk.model.gate.set()
    for _ in range(40):
        await desk.begin(1.0)
    assert desk.costs.estimate_us(1) < 900, "they take some microseconds of CPU time, not a millisecond"


async def test_the_supervisor_sees_what_is_predicted(desk: Desk) -> None:
    seen: list[str] = []
    desk.model.seen = lambda: seen.append(desk.box.read().packages[PREDICT])
    desk.model.gate.set()
    await desk.begin(1.0)
    assert seen == ["p"]
    assert desk.box.read().packages[PREDICT] == ""
