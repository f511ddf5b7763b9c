"""Bounded loads: the bound holds, no ejected link while another lives, copies come and go with the load."""

from __future__ import annotations

from collections import Counter
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from router.choice import BoundedLoad, LinkLoad, Route

LEAST = 4
weights = st.sampled_from([0.0, 0.25, 1.0, 1.0, 1.0])


def links_of(*in_flight: int) -> list[LinkLoad]:
    made = []
    for count in in_flight:
        made.append(LinkLoad())
        made[-1].in_flight = count
    return made


def bounded(links: list[LinkLoad], patience_s: float = 0.0) -> BoundedLoad:
    chooser = BoundedLoad(least=LEAST, patience_s=patience_s)
    chooser.use(links)
    chooser.in_flight = sum(link.in_flight for link in links)
    return chooser


@given(st.lists(st.tuples(st.integers(0, 40), weights), min_size=1, max_size=8), st.integers(1, 3), st.integers(0, 60))
def test_never_an_ejected_link_while_another_lives(states: list[tuple[int, float]], owners: int, own: int) -> None:
    links = links_of(*(count for count, _ in states))
    for link, (_, weight) in zip(links, states, strict=True):
        link.weight = weight
    route = Route(links, owners)
    route.in_flight = own
    for step in range(30):
        place = bounded(links).choose(route, now=step / 10)
        assert 0 <= place < len(links)
        assert links[place].weight > 0 or all(link.weight == 0 for link in links)


@given(
    st.integers(2, 8),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 99)), max_size=300),
)
def test_the_bound_holds_where_a_model_may_use_all_links(
    members: int, owners: int, steps: list[tuple[int, bool, int]]
) -> None:
    """Each model ranks the links its own way and has all of them as owners: then there is always one with room."""
    links = links_of(*[0] * members)
    chooser = bounded(links)
    routes = [Route([links[(first + n) % members] for n in range(members)], members) for first in range(10)]
    running: list[tuple[Route, int]] = []
    for now, (model, is_start, which) in enumerate(steps):
        if not is_start and running:
            chooser.end(*running.pop(which % len(running)))
            continue
        route, limit = routes[model], chooser.limit
        place = chooser.choose(route, now / 100)
        assert route.links[place].in_flight < limit
        chooser.start(route, place)
        running.append((route, place))
        assert route.links[place].in_flight <= max(LEAST, ceil(1.25 * chooser.in_flight / members) + 1)
    for route, place in running:
        chooser.end(route, place)
    assert chooser.in_flight == sum(link.in_flight for link in links) == sum(r.in_flight for r in routes) == 0


@given(st.lists(st.integers(0, 40), min_size=3, max_size=8), st.integers(1, 3))
def test_a_model_that_is_not_hot_stays_on_its_replicas(loads: list[int], owners: int) -> None:
    links = links_of(*loads)
    route = Route(links, owners)
    assert bounded(links).choose(route, 0.0) < owners


def test_a_light_load_stays_on_the_first_rank() -> None:
    links = links_of(3, 0, 0, 0)
    assert bounded(links).choose(Route(links, 2), 0.0) == 0


def test_a_burst_stays_and_what_lasts_moves_on() -> None:
    links = links_of(50, 0, 0, 0)
    chooser, route = bounded(links, patience_s=0.05), Route(links, 2)
    assert [chooser.choose(route, now) for now in (10.0, 10.04, 10.06, 10.5)] == [0, 0, 1, 1]
    assert [chooser.choose(route, now) for now in (12.0, 12.06)] == [0, 1], "another burst"
    other = Route([links[0], links[2]], 2)
    assert chooser.choose(other, 12.07) == 1, "one that is asked for seldom needn't wait again"


def test_a_hot_model_gets_copies_and_loses_them() -> None:
    """3 requests a tick for one model, 120 in the middle: at 1.25 times the mean 5 of 6 links are enough."""
    links = links_of(*[0] * 6)
    chooser, route = BoundedLoad(least=LEAST, patience_s=0.05), Route(links, 2)
    chooser.use(links)
    other = Route(links[4:], 2)
    used: list[Counter[int]] = []
    for tick in range(20):
        now, places = tick / 10, Counter[int]()
        for _ in range(120 if 5 <= tick < 15 else 3):
            place = chooser.choose(route, now)
            chooser.start(route, place)
            places[place] += 1
        chooser.start(other, 0)
        used.append(places)
        for place in places.elements():
            chooser.end(route, place)
        chooser.end(other, 0)
    assert set(used[4]) == {0}
    assert set(used[10]) == {0, 1, 2, 3, 4}
    assert max(used[10].values()) <= ceil(1.25 * 121 / 6) + 1
    assert set(used[19]) == {0}


def test_a_replica_that_is_ejected_has_a_stand_in() -> None:
    links = links_of(0, 0, 0, 0)
    route = Route(links, 2)
    links[0].weight = 0.0
    assert bounded(links).choose(route, 0.0) == 1
    links[1].weight = 0.0
    assert bounded(links).choose(route, 0.0) == 2


@given(st.sampled_from([0.1, 0.25, 0.5]))
def test_a_link_that_comes_back_takes_its_part(weight: float) -> None:
    links = links_of(0, 0)
    links[0].weight = weight
    chooser, route = bounded(links), Route(links, 2)
    taken = Counter(chooser.choose(route, 0.0) for _ in range(200))
    assert abs(taken[0] - 200 * weight) <= 1


def test_if_all_are_full_the_one_with_the_least_work_takes_it() -> None:
    links = links_of(50, 40)
    links[0].observe(0.001)
    links[1].observe(0.010)
    chooser, route = BoundedLoad(least=LEAST, patience_s=0.0), Route(links, 2)
    chooser.use([*links, *links_of(*[0] * 20)])
    chooser.in_flight = 90
    assert chooser.choose(route, 0.0) == 0


@given(st.lists(st.floats(1e-5, 10), min_size=1, max_size=50))
def test_a_steady_model_is_not_stretched(latencies: list[float]) -> None:
    route = Route(links_of(0), 1)
    assert route.stretch(latencies[0], 0.0) == 1.0
    for seconds in latencies:
        assert route.stretch(seconds, 0.0) > 0
    for now in range(1, 600):
        last = route.stretch(0.5, float(now))
    assert abs(last - 1.0) < 0.01


def test_an_overload_of_seconds_is_not_typical_and_another_epoch_knows_what_is() -> None:
    route = Route(links_of(0), 1)
    for _ in range(100):
        route.stretch(0.001, 0.0)
    for answer in range(5000):
        stretch = route.stretch(0.004, 1.0 + answer / 1000)
    assert stretch > 2.5
    assert Route(links_of(0), 1, route.typical_s).stretch(0.001, 7.0) == 0.001 / route.typical_s
