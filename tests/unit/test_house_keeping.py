"""What a router tells its operator of itself."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal

import pytest

from router import house_keeping
from router.adaptive_limit import AdaptiveLimit
from router.admission import Admission
from router.cluster_view import ClusterView
from router.counters import Counters, what_is_off
from router.house_keeping import HouseKeeping
from router.link_health import LinkHealth


class OldView(ClusterView):
    def __init__(self, age_s: float) -> None:
        self.told_s = age_s

    @property
    def age_s(self) -> float:
        return self.told_s


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    monkeypatch.setattr(house_keeping, "_SWEEP_S", 0.005)
    monkeypatch.setattr(house_keeping, "_REPORT_S", 0.02)
    return Counters()


def _keep(counters: Counters, view: ClusterView) -> HouseKeeping:
    return HouseKeeping(counters, Admission(AdaptiveLimit()), LinkHealth(counters), view, stale_s=60.0)


async def _until(caplog: pytest.LogCaptureFixture, words: str) -> str:
    async with asyncio.timeout(20):
        while not (found := [line for line in caplog.messages if words in line]):
            await asyncio.sleep(0.005)
    return found[-1]


async def test_a_view_that_is_old_is_a_warning(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    view = OldView(59.0)
    house = _keep(counters, view)
    await asyncio.sleep(0.02)
    assert caplog.messages == []
    view.told_s = 61.0
    assert "nothing heard from etcd for 61 s" in await _until(caplog, "etcd")
    house.close()


async def test_what_is_off_is_told_and_only_the_growth(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    counters.refused_rate = counters.answers = 1_000_000
    house = _keep(counters, OldView(0.0))
    counters.answers += 7
    counters.refused_rate += 3
    counters.stalls += 1
    line = await _until(caplog, "in the last")
    assert line.endswith("refused_rate 3, stalls 1")
    caplog.clear()
    await asyncio.sleep(0.05)
    assert caplog.messages == [], "nothing new, nothing told"
    house.close()


async def test_a_signal_shows_all(counters: Counters, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    house = _keep(counters, OldView(1.5))
    counters.answers = 12
    os.kill(os.getpid(), signal.SIGUSR1)
    told = json.loads((await _until(caplog, "counters: ")).removeprefix("counters: "))
    assert (told["answers"], told["view_age_s"], told["links_ejected"]) == (12, 1.5, 0)
    assert (told["in_flight"], told["limit"]) == (0, 512)
    house.close()


def test_only_what_an_operator_should_hear_of() -> None:
    assert what_is_off({}, dict.fromkeys(Counters().snapshot(), 0.0)) == {}
    now = {**Counters().snapshot(), "answers": 5.0, "unreachable": 2.0}
    assert what_is_off({}, now) == {"unreachable": 2.0}
