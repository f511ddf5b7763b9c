"""The check of histories, on histories written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.linearizing import Call, State, is_linearizable

AT_1 = State(5, frozenset({("live", "1")}))
AT_2 = State(6, frozenset({("live", "2")}), frozenset({("live", "1")}))


def call(act: str, began: int, ended: int | None, **fields: Any) -> Call:
    alias = "" if act in ("read", "retire") else "live"
    return Call(act=act, began=began, ended=ended, **{"alias": alias, **fields})


def seen(revision: int, live: str) -> tuple[int, dict[str, str]]:
    return revision, {"live": live} if live else {}


HOLD = {
    "nothing happened": [],
    "one after the other": [
        call("point", 0, 1, version="2", shown=seen(6, "2")),
        call("read", 2, 3, shown=seen(6, "2")),
        call("roll_back", 4, 5, shown=seen(7, "1")),
        call("roll_back", 6, 7, shown=seen(8, "2")),
    ],
    "overlapping reads see it early and late": [
        call("point", 0, 9, version="2"),
        call("read", 1, 2, shown=seen(6, "2")),
        call("read", 1, 3, shown=seen(5, "1")),
    ],
    "one of two expectations": [
        call("point", 0, 5, version="2", expected="1"),
        call("point", 0, 5, version="3", expected="1", outcome="conflict"),
    ],
    "a failed write that shows much later": [
        call("point", 0, None, version="2", outcome="unknown"),
        call("read", 1, 2, shown=seen(5, "1")),
        call("read", 3, 4, shown=seen(6, "2")),
    ],
    "a failed write that never shows": [
        call("point", 0, None, version="2", outcome="unknown"),
        call("read", 1, 2, shown=seen(5, "1")),
    ],
    "made already": [call("point", 0, 1, version="1", expected="9", shown=seen(5, "1"))],
    "retired, then refused": [
        call("retire", 0, 1, version="3"),
        call("point", 2, 3, version="3", outcome="in use"),
        call("retire", 4, 5, version="1", outcome="in use"),
    ],
    "removed": [
        call("remove", 0, 1, shown=seen(6, "")),
        call("roll_back", 2, 3, outcome="missing"),
        call("publish", 4, 5, version="7"),
        call("read", 6, 7, shown=seen(7, "7")),
    ],
    "published without an alias": [
        call("publish", 0, 1, version="7", alias=""),
        call("read", 2, 3, shown=seen(6, "1")),
    ],
}
BREAK = {
    "a stale read": [call("point", 0, 1, version="2"), call("read", 2, 3, shown=seen(5, "1"))],
    "two expectations at once": [
        call("point", 0, 5, version="2", expected="1"),
        call("point", 0, 5, version="3", expected="1"),
    ],
    "a lost update": [
        call("point", 0, 5, version="2", shown=seen(6, "2")),
        call("publish", 0, 5, version="3"),
        call("read", 6, 7, shown=seen(6, "2")),
    ],
    "reads that go back": [
        call("point", 0, 9, version="2"),
        call("read", 1, 2, shown=seen(6, "2")),
        call("read", 3, 4, shown=seen(5, "1")),
    ],
    "a failed write that is seen before it began": [
        call("read", 0, 1, shown=seen(6, "2")),
        call("point", 2, None, version="2", outcome="unknown"),
    ],
    "a failed write that happens twice": [
        call("point", 0, None, version="2", outcome="unknown"),
        call("point", 2, 3, version="1", shown=seen(7, "1")),
        call("read", 4, 5, shown=seen(8, "2")),
    ],
    "a conflict without a reason": [call("point", 0, 1, version="2", expected="1", outcome="conflict")],
    "missing although it is there": [
        call("point", 0, 1, version="2"),
        call("roll_back", 2, 3, outcome="missing"),
    ],
    "pointing at what is retired": [call("retire", 0, 1, version="3"), call("point", 2, 3, version="3")],
    "a value from nowhere": [call("read", 0, 1, shown=seen(5, "9"))],
    "a revision that was skipped": [call("point", 0, 1, version="2", shown=seen(7, "2"))],
}


@pytest.mark.parametrize("name", HOLD)
def test_histories_that_have_an_order(name: str) -> None:
    assert is_linearizable(HOLD[name], AT_1)


@pytest.mark.parametrize("name", BREAK)
def test_histories_that_have_none(name: str) -> None:
    assert not is_linearizable(BREAK[name], AT_1)


def test_two_who_roll_back_what_they_expect_do_it_once() -> None:
    both = [
        call("roll_back", 0, 5, expected="2", shown=seen(7, "1")),
        call("roll_back", 0, 5, expected="2", outcome="conflict"),
    ]
    assert is_linearizable(both, AT_2)
    assert not is_linearizable([both[0], call("roll_back", 0, 5, expected="2")], AT_2)
