"""Single flight."""

from __future__ import annotations

import asyncio

import pytest

from registry.flight import Flight


class _Work:
    """Work that waits for the test; counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.runs += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return self.runs


async def _begun(flight: Flight[str, int], work: _Work, waiters: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(flight.do("key", work)) for _ in range(waiters)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_all_who_ask_meanwhile_share_a_run() -> None:
    flight, work = Flight[str, int](), _Work()
    tasks = await _begun(flight, work, 5)
    assert "key" in flight
    work.may_end.set()
    assert await asyncio.gather(*tasks) == [1] * 5
    assert "key" not in flight
    assert await flight.do("key", work) == 2


async def test_an_error_goes_to_every_waiter_and_the_next_one_tries_anew() -> None:
    flight, work = Flight[str, int](), _Work()
    work.error = OSError("broken")
    tasks = await _begun(flight, work, 3)
    work.may_end.set()
    assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["broken"] * 3
    work.error = None
    assert await flight.do("key", work) == 2


async def test_waiters_that_leave_let_the_run_go_on() -> None:
    flight, work = Flight[str, int](), _Work()
    first, second = await _begun(flight, work, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.may_end.set()
    assert await second == 1


async def test_a_run_that_all_have_left_may_fail_in_silence(recwarn: pytest.WarningsRecorder) -> None:
    flight, work = Flight[str, int](), _Work()
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    work.error = OSError("nobody hears it")
    (only,) = await _begun(flight, work, 1)
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    work.may_end.set()
    while "key" in flight:
        await asyncio.sleep(0)
    assert reported == []
    assert not recwarn.list


async def test_closing_ends_the_runs() -> None:
    flight, work = Flight[str, int](), _Work()
    (task,) = await _begun(flight, work, 1)
    await flight.aclose()
    assert "key" not in flight
    with pytest.raises(asyncio.CancelledError):
        await task
