"""How much memory a scorer's command line gives it."""

from __future__ import annotations

import pytest

from scorer.cgroup import memory_limit_bytes
from scorer.config import ScorerConfig, parse
from scorer.memory_budget import LEAST_BYTES, MemoryBudget

MIB = 2**20


def config(*arguments: str) -> ScorerConfig:
    return parse(["--etcd", "127.0.0.1:1", "--store", "file:///tmp", *arguments])


def test_a_share_of_the_containers_limit() -> None:
    limit = int(memory_limit_bytes() * 0.7)
    found = config("--memory", "70%")
    assert found.budget == MemoryBudget(limit, limit)
    assert limit // 2 < found.capacity_bytes < limit


def test_workers_share_evenly() -> None:
    found = config("--memory", "1GiB", "--workers", "4")
    assert found.budget.limit_bytes == 256 * MIB
    assert config("--capacity-mib", "100", "--workers", "4").capacity_bytes == 25 * MIB


def test_what_a_member_says_it_has_is_the_same_at_each_start() -> None:
    assert config("--memory", "400MiB").capacity_bytes == config("--memory", "400MiB").capacity_bytes == 304 * MIB


def test_no_more_than_there_is() -> None:
    assert config("--memory", "1000000GiB").budget.limit_bytes == memory_limit_bytes()


def test_with_a_capacity_of_its_own_most_of_the_container_is_for_all_else() -> None:
    found = config("--capacity-mib", "100")
    assert found.capacity_bytes == found.budget.ceiling_bytes == 100 * MIB
    assert found.budget.limit_bytes == int(memory_limit_bytes() * 0.9)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--memory", "much"),
        ("--memory", "120%"),
        ("--memory", f"{LEAST_BYTES - 1}"),
        ("--memory", "256MiB", "--workers", "3"),
        ("--memory", "1GiB", "--capacity-mib", "100"),
    ],
)
def test_what_can_not_be_ends_with_a_message(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config(*arguments)
    assert "--memory" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--warm-s", "--handover-s"])
def test_times_before_and_after_traffic_are_not_negative(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--store", "file:///x", option, "-1"])
    assert "--warm-s and --handover-s must be at least 0" in capsys.readouterr().err
