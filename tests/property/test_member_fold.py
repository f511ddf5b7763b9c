from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from registry.etcd_records import Changed, Deleted, KeyValue, Listed, Put
from registry.keys import Keys, encode
from registry.member_fold import MemberFold
from registry.model import Member, MemberState
from registry.placement import Placement
from scorer.inheritance import settled

KEYS = Keys("c")
IDS = ("a", "b", "c", "d")


def member(member_id: str, incarnation: str, state: MemberState = MemberState.READY) -> Member:
    return Member(
        id=member_id,
        address="h:1",
        host="h",
        zone="z",
        pool="p",
        capacity_bytes=1,
        incarnation=incarnation,
        state=state,
    )


# One write: whose key, and what to: None deletes; "!" is garbage; "?" a valid member of another name; else incarnation.
write = st.tuples(st.sampled_from(IDS), st.sampled_from([None, "!", "?", "1", "2"]))


def value_of(member_id: str, what: str) -> bytes:
    if what == "!":
        return b"{garbage"
    return encode(member("other" if what == "?" else member_id, what))


@given(st.lists(st.tuples(write, st.booleans(), st.booleans()), max_size=40))
def test_any_cut_of_a_history_gives_the_same_members(history: list[tuple[tuple[str, str | None], bool, bool]]) -> None:
    """Each write is followed by: a cut between two events or not, a listing anew or not."""
    fold, store, pending = MemberFold(KEYS), dict[str, str](), list[Put | Deleted]()
    fold.apply(Listed(0, ()))
    for revision, ((member_id, what), cut, relist) in enumerate(history, start=1):
        key = KEYS.member(member_id)
        if what is None:
            store.pop(member_id, None)
            pending.append(Deleted(key, revision))
        else:
            store[member_id] = what
            pending.append(Put(KeyValue(key, value_of(member_id, what), revision)))
        if relist:
            listing = (KeyValue(KEYS.member(name), value_of(name, now), revision) for name, now in store.items())
            fold.apply(Listed(revision, tuple(listing)))
            pending = []
        elif cut:
            fold.apply(Changed(revision, tuple(pending)))
            pending = []
    if pending:
        fold.apply(Changed(len(history), tuple(pending)))
    expected = {name: member(name, what) for name, what in store.items() if what in {"1", "2"}}
    assert fold.view.members == expected
    assert fold.view.revision == (len(history) if history else 0)


@given(st.lists(write, max_size=40))
def test_the_epoch_counts_the_changes_of_the_members(history: list[tuple[str, str | None]]) -> None:
    fold, changes = MemberFold(KEYS), 0
    for revision, (member_id, what) in enumerate(history, start=1):
        before, key = fold.view, KEYS.member(member_id)
        event = Put(KeyValue(key, value_of(member_id, what), revision)) if what else Deleted(key, revision)
        bad = fold.apply(Changed(revision, (event,)))
        assert bad == ((key,) if what in {"!", "?"} else ())
        changes += before.members != fold.view.members
        assert fold.view.epoch == changes


def test_a_drain_is_a_change() -> None:
    fold = MemberFold(KEYS)
    for revision, state in enumerate((MemberState.READY, MemberState.READY, MemberState.DRAINING), start=1):
        put = Put(KeyValue(KEYS.member("a"), encode(member("a", "1", state)), revision))
        fold.apply(Changed(revision, (put,)))
    assert fold.view.epoch == 2


def announced(name: str, incarnation: str = "1", revision: int = 1) -> KeyValue:
    return KeyValue(KEYS.member(name), encode(member(name, incarnation)), revision)


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete", "list"]), st.sets(st.sampled_from(IDS)), st.floats(0, 7)),
        max_size=30,
    )
)
def test_who_a_listing_lost_stays_until_the_grace_is_over(history: list[tuple[str, set[str], float]]) -> None:
    """Against a model that remembers when each was lost first."""
    fold = MemberFold(KEYS, grace_s=10.0)
    alive: set[str] = set()
    lost: dict[str, float] = {}
    now_s = 100.0
    for revision, (what, names, pause_s) in enumerate(history, start=1):
        now_s += pause_s
        fold.expire(now_s)
        lost = {name: until_s for name, until_s in lost.items() if until_s > now_s}
        if what == "list":
            missed = (alive | lost.keys()) - names
            lost = {name: lost.get(name, now_s + 10.0) for name in missed}
            alive = set(names)
            fold.apply(Listed(revision, tuple(announced(name) for name in names)), now_s)
        else:
            changes = [Put(announced(n)) if what == "put" else Deleted(KEYS.member(n), revision) for n in names]
            fold.apply(Changed(revision, tuple(changes)), now_s)
            alive = alive | names if what == "put" else alive - names
            lost = {name: until_s for name, until_s in lost.items() if name not in names}
        assert fold.view.members.keys() == alive | lost.keys()
        assert fold.lost_until_s == lost
    fold.expire(now_s + 10.0)
    assert fold.view.members.keys() == alive
    assert not fold.lost_until_s


def test_who_comes_back_is_the_new_incarnation_at_once() -> None:
    fold = MemberFold(KEYS, grace_s=10.0)
    fold.apply(Listed(7, (announced("a"), announced("b"))), 0.0)
    fold.apply(Listed(1, ()), 1.0)
    assert {m.incarnation for m in fold.view.members.values()} == {"1"}
    assert fold.view.epoch == 1, "nobody was lost yet"
    fold.apply(Changed(2, (Put(announced("a", "2")),)), 2.0)
    assert fold.view.members["a"].incarnation == "2"
    fold.expire(11.0)
    assert fold.view.members.keys() == {"a"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "delete", "list"]),
            st.dictionaries(
                st.sampled_from(IDS), st.sampled_from([state for state in MemberState if state is not MemberState.DOWN])
            ),
            st.floats(0, 30),
        ),
        max_size=30,
    )
)
def test_the_dead_keep_their_places_for_a_while(history: list[tuple[str, dict[str, MemberState], float]]) -> None:
    """Against a model that looks at the members before and after each event."""
    fold = MemberFold(KEYS, refill_after_s=60.0)
    until_s: dict[str, float] = {}
    now_s = 0.0
    for revision, (what, states, pause_s) in enumerate(history, start=1):
        now_s += pause_s
        before = fold.view.members
        puts = [KeyValue(KEYS.member(n), encode(member(n, "1", state)), revision) for n, state in states.items()]
        if what == "list":
            fold.apply(Listed(revision, tuple(puts)), now_s)
        elif what == "put":
            fold.apply(Changed(revision, tuple(map(Put, puts))), now_s)
        else:
            fold.apply(Changed(revision, tuple(Deleted(KEYS.member(n), revision) for n in states)), now_s)
        working = {n for n, m in fold.view.members.items() if m.state is not MemberState.WARMING}
        died = {n for n in before.keys() - working if before[n].state is MemberState.READY}
        until_s |= dict.fromkeys(died, now_s + 60.0)
        until_s = {n: until for n, until in until_s.items() if until > now_s and n not in working}
        assert fold.view.down == {n: member(n, "1", MemberState.DOWN) for n in until_s}
        assert fold.next_s == min(until_s.values(), default=math.inf)
        assert len(fold.view.placed) == len(fold.view.members) + len(until_s)
    fold.expire(now_s + 60.0)
    assert not fold.view.down
    assert fold.next_s == math.inf


def test_a_death_and_the_end_of_its_time_are_changes_and_a_return_brings_back_what_was() -> None:
    fold = MemberFold(KEYS, grace_s=10.0, refill_after_s=60.0)
    fold.apply(Listed(1, (announced("a"), announced("b"))), 0.0)
    fold.apply(Changed(2, (Deleted(KEYS.member("a"), 2),)), 1.0)
    assert (fold.view.epoch, [m.id for m in fold.view.placed]) == (2, ["b", "a"])
    fold.apply(Changed(3, (Put(announced("a", "2")),)), 60.0)
    assert (fold.view.epoch, fold.view.down) == (3, {})
    fold.apply(Changed(4, (Deleted(KEYS.member("a"), 4),)), 70.0)
    fold.expire(129.0)
    assert (fold.view.epoch, set(fold.view.down)) == (4, {"a"})
    fold.expire(130.0)
    assert (fold.view.epoch, fold.view.down) == (5, {})


def test_who_warms_after_a_crash_keeps_its_places() -> None:
    """Its supervisor starts it again before its lease is over, so it never vanishes."""
    fold = MemberFold(KEYS, refill_after_s=60.0)
    fold.apply(Listed(1, (announced("a"), announced("b"), announced("c"))), 0.0)
    shard = Placement(fold.view.placed, shard_size=2).shard("tenant")
    name = shard[0].id
    for revision, state in enumerate((MemberState.WARMING, MemberState.READY), start=2):
        warming = encode(member(name, "2", state))
        fold.apply(Changed(revision, (Put(KeyValue(KEYS.member(name), warming, revision)),)), float(revision))
        placement = Placement(fold.view.placed, shard_size=2)
        assert {one.id for one in placement.shard("tenant")} == {one.id for one in shard}
        is_asked = name in [one.id for one in placement.candidates("tenant", "model")]
        assert is_asked is (state is MemberState.READY)
        assert sorted(one.id for one in settled(fold.view.placed)) == ["a", "b", "c"]


def test_who_a_listing_lost_is_down_when_its_grace_is_over() -> None:
    fold = MemberFold(KEYS, grace_s=10.0, refill_after_s=60.0)
    fold.apply(Listed(1, (announced("a"),)), 0.0)
    fold.apply(Listed(2, ()), 5.0)
    assert (set(fold.view.members), set(fold.view.down)) == ({"a"}, set())
    fold.expire(15.0)
    assert (set(fold.view.members), set(fold.view.down), fold.next_s) == (set(), {"a"}, 75.0)
