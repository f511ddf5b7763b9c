"""A link over a network that delays, loses and cuts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from registry.failure import Failure
from router.channel import State
from router.link import LARGE_BYTES
from tests.fault_proxy import fault_proxy
from tests.linked import LinkBench, answer

_LARGE = bytes(4 * 2**20)


@pytest.fixture(params=["http2", "native", "aio"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[LinkBench]:
    bench = LinkBench()
    async with fault_proxy(await bench.serve(request.param)) as proxy:
        bench.proxy = proxy
        bench.connect(proxy.address)
        yield bench
        await bench.aclose()


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_scorer_that_is_not_heard_is_stalled_until_it_is(bench: LinkBench, direction: str) -> None:
    """The connection stands all the while, as with a process that is stopped."""
    (first,) = bench.submit(b"first")
    await bench.wait(lambda: bool(bench.calls))
    answer(bench.calls[0], 0)
    await bench.wait(lambda: first in bench.results)
    faults = getattr(bench.proxy, direction)
    faults.delay_s = 3.0
    (item,) = bench.submit(b"second")
    await bench.wait(lambda: bench.stalls == [True])
    assert not bench.link.reachable
    assert item not in bench.results
    bench.link.take_back(lambda taken: taken is item)
    assert bench.link.idle
    faults.delay_s = 0.0
    await bench.wait(lambda: bench.stalls == [True, False])
    assert bench.link.reachable
    assert bench.proxy.accepted == 1, "it was the same connection"
    (third,) = bench.submit(b"third")
    await bench.wait(lambda: list(bench.batch(-1).items) == [b"third"])
    answer(bench.calls[-1], 0)
    await bench.wait(lambda: third in bench.results)


async def test_a_scorer_that_loads_a_model_is_not_stalled(bench: LinkBench) -> None:
    """It answers pings, on each of the fronts."""
    (item,) = bench.submit(b"cold")
    await bench.wait(lambda: bool(bench.calls))
    bench.calls[0].respond(b"")
    for _ in range(12):
        before = bench.channel.heard_at
        await bench.wait(lambda: bench.channel.heard_at > before)  # noqa: B023
    assert bench.stalls == []
    assert bench.proxy.accepted == 1
    answer(bench.calls[0], 0)
    await bench.wait(lambda: item in bench.results)


async def test_a_small_request_overtakes_a_large_one(bench: LinkBench) -> None:
    (warm_up,) = bench.submit(b"connects")
    await bench.wait(lambda: bool(bench.calls))
    answer(bench.calls[0], 0)
    await bench.wait(lambda: warm_up in bench.results)
    bench.proxy.up.delay_s = 0.02  # a chunk of at most 64 KiB
    bench.submit(_LARGE)
    await bench.wait(lambda: bench.link._large.unanswered == 1)
    bench.submit(b"small")
    await bench.wait(lambda: len(bench.calls) == 3)
    assert [len(bench.batch(place).items[0]) for place in (1, 2)] == [len(b"small"), len(_LARGE)]


@pytest.mark.parametrize("after", [LARGE_BYTES // 2, 3 * LARGE_BYTES])
async def test_a_connection_that_is_reset_inside_a_message(bench: LinkBench, after: int) -> None:
    bench.proxy.up.reset_after, bench.proxy.up.most_resets = after, 1
    (large,) = bench.submit(_LARGE)
    await bench.wait(lambda: large in bench.results)
    (failure,) = bench.results[large]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.reason) == (14, "SCORER_UNREACHABLE")
    await bench.wait(lambda: bench.channel.state is State.READY)
    (again,) = bench.submit(_LARGE)
    await bench.wait(lambda: bool(bench.calls))
    answer(bench.calls[0], 0)
    await bench.wait(lambda: bench.results.get(again) == [b"r0"])
    assert bench.link.idle


async def test_a_small_answer_overtakes_a_large_one() -> None:
    bench = LinkBench()
    async with fault_proxy(await bench.serve()) as proxy:
        bench.connect(proxy.address)
        large, small = bench.submit(bytes(LARGE_BYTES + 1), b"small")
        await bench.wait(lambda: len(bench.calls) == 2)
        by_size = sorted(bench.calls, key=lambda call: len(call.payload))
        proxy.down.delay_s = 0.02
        answer(by_size[1], 0, size=len(_LARGE))
        answer(by_size[0], 0)
        await bench.wait(lambda: len(bench.results) == 2)
        assert list(bench.results) == [small, large]
        await bench.aclose()
