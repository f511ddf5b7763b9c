"""What is loaded ahead when the members change: only what traffic will come for, the hottest first, and what fits."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from registry.member_fold import MembersView
from registry.model import Member, MemberState, ModelRef, ModelVersion, Runtime
from registry.placement import Placement
from scorer.inheritance import Held, asked, settled, to_hand_over, to_warm, vanished

ALL = list(MemberState)
ALIVE = [state for state in ALL if state is not MemberState.DOWN]


def member(number: int, state: MemberState = MemberState.READY) -> Member:
    return Member(f"scorer-{number}", f"10.0.0.{number}:1", f"host-{number % 5}", "a", "default", 1, "1", state)


def held(number: int, demand: float, nbytes: int) -> Held:
    package = f"p{number}"
    version = ModelVersion("1", package, "acme", "a" * 64, "b" * 64, Runtime.LIGHTGBM, 1, nbytes)
    return Held(ModelRef("acme", f"m{number}"), version, demand)


fleets = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(ALL)), min_size=1, max_size=8, unique_by=lambda m: m[0])
members = fleets.map(lambda parts: [member(number, state) for number, state in parts])
models = st.lists(
    st.builds(held, st.integers(0, 40), st.floats(0, 100), st.integers(1, 50)), max_size=30, unique_by=lambda h: h.ref
)
lists = st.lists(models, max_size=4)


@given(members, lists, st.integers(0, 400), st.integers(1, 3))
def test_what_is_warmed_is_mine_then_and_not_now_and_fits(
    fleet: list[Member], found: list[list[Held]], room_bytes: int, replicas: int
) -> None:
    me = msgspec.structs.replace(fleet[0], state=MemberState.WARMING)
    fleet = [me, *fleet[1:]]
    now, then = Placement(fleet, replicas=replicas), Placement(settled(fleet), replicas=replicas)
    chosen = to_warm(found, now, then, me.id, room_bytes)
    assert sum(each.version.resident_bytes for each in chosen) <= room_bytes
    packages = [each.version.package for each in chosen]
    assert len(set(packages)) == len(packages)
    assert set(packages) <= {each.version.package for resident in found for each in resident}
    for each in chosen:
        assert me.id in asked(then, each.ref)
        assert me.id not in asked(now, each.ref)


@given(members, lists, st.integers(1, 3))
def test_with_room_for_all_a_newcomer_warms_all_that_it_will_be_asked_for(
    fleet: list[Member], found: list[list[Held]], replicas: int
) -> None:
    me = msgspec.structs.replace(fleet[0], state=MemberState.WARMING)
    fleet = [me, *fleet[1:]]
    now, then = Placement(fleet, replicas=replicas), Placement(settled(fleet), replicas=replicas)
    chosen = to_warm(found, now, then, me.id, 1 << 40)
    mine = {each.version.package for resident in found for each in resident if me.id in asked(then, each.ref)}
    assert {each.version.package for each in chosen} == mine
    order = [(asked(then, each.ref).index(me.id), -each.demand) for each in chosen]
    assert order == sorted(order)


@given(models, st.integers(1, 3))
def test_when_one_leaves_its_heirs_warm_what_it_had_and_nobody_else(resident: list[Held], replicas: int) -> None:
    before = [member(number) for number in range(6)]
    left = [one for one in before if one.id != "scorer-0"]
    now, then = Placement(before, replicas=replicas), Placement(left, replicas=replicas)
    warmed = {one.id: to_warm([resident], now, then, one.id, 1 << 40) for one in left}
    for each in resident:
        heirs = {name for name, chosen in warmed.items() if each in chosen}
        assert heirs == set(asked(then, each.ref)) - set(asked(now, each.ref))
        assert not heirs or "scorer-0" in asked(now, each.ref)


@given(lists)
def test_a_hot_model_counts_with_the_demand_of_all_that_have_it(found: list[list[Held]]) -> None:
    me = member(0, MemberState.WARMING)
    chosen = to_warm(found, Placement([me]), Placement(settled([me])), me.id, 1 << 40)
    for each in chosen:
        same = [one.demand for resident in found for one in resident if one.version.package == each.version.package]
        assert abs(each.demand - sum(same)) < 1e-6


@given(members, models, st.integers(1, 3))
def test_each_model_is_handed_to_those_that_will_be_asked_first_choices_first(
    fleet: list[Member], resident: list[Held], replicas: int
) -> None:
    then = Placement(settled(fleet), replicas=replicas)
    handed = to_hand_over(resident, then)
    for each in resident:
        assert {name for name, models in handed.items() if each in models} == set(asked(then, each.ref))
    for name, given_to in handed.items():
        order = [(asked(then, each.ref).index(name), -each.demand) for each in given_to]
        assert order == sorted(order)


@given(members)
def test_those_that_go_are_gone_and_those_that_come_are_ready(fleet: list[Member]) -> None:
    after = settled(fleet)
    assert {one.state for one in after} <= {MemberState.READY, MemberState.DOWN}
    going = {one.id for one in fleet if one.state in (MemberState.LEAVING, MemberState.DRAINING)}
    assert {one.id for one in after} == {one.id for one in fleet} - going


def view(*alive: Member, down: tuple[Member, ...] = ()) -> MembersView:
    return MembersView(1, 1, {one.id: one for one in alive}, {one.id: one for one in down})


def test_who_vanishes_and_who_goes_on_purpose() -> None:
    a, b = member(1), member(2)
    for state in ALIVE:
        assert not vanished(view(a, b), view(a, member(2, state))), "still there"
        gone_on_purpose = state is not MemberState.READY
        assert vanished(view(a, member(2, state)), view(a)) is not gone_on_purpose
    down = member(2, MemberState.DOWN)
    assert vanished(view(a, b), view(a, down=(down,)))
    assert not vanished(view(a, down=(down,)), view(a, down=(down,)))
    assert vanished(view(a, down=(down,)), view(a)), "its places are free now"
    assert not vanished(view(a, down=(down,)), view(a, b)), "it came back"
    assert not vanished(view(), view(a, b)), "the first look"
