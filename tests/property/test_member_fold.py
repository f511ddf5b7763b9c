from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from registry.etcd_records import Changed, Deleted, KeyValue, Listed, Put
from registry.keys import Keys, encode
from registry.member_fold import MemberFold
from registry.model import Member, MemberState

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
