"""Ejection: at most a share, for a time that doubles, back slowly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.choice import LinkLoad
from router.outliers import OutlierPolicy, Outliers, Watched

POLICY = OutlierPolicy()


def watching(count: int, policy: OutlierPolicy = POLICY) -> tuple[Outliers, list[Watched]]:
    watched = [Watched(LinkLoad()) for _ in range(count)]
    outliers = Outliers(policy)
    outliers.use(watched)
    return outliers, watched


def fail(outliers: Outliers, one: Watched, now: float, times: int = POLICY.failures_in_row) -> None:
    for _ in range(times):
        outliers.failed(one, now)


steps = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["fail", "answer", "stall", "sweep"]), st.floats(0, 5)), max_size=200
)


@given(st.integers(1, 8), steps)
def test_never_more_than_a_share_and_never_before_the_time_is_over(
    count: int, history: list[tuple[int, str, float]]
) -> None:
    outliers, watched = watching(count)
    now = 0.0
    for which, what, pause_s in history:
        now += pause_s
        one = watched[which % count]
        before = [other.link.weight for other in watched]
        if what == "fail":
            outliers.failed(one, now)
        elif what == "stall":
            outliers.stalled(one, now)
        elif what == "answer":
            one.succeeded(1.0)
        else:
            outliers.sweep(now)
        assert sum(other.ejected for other in watched) <= count // 2
        for other, weight in zip(watched, before, strict=True):
            assert 0.0 <= other.link.weight <= 1.0
            if weight == 0.0 and other.link.weight > 0.0:
                assert (other.until_s <= now, other.link.weight, what) == (True, 0.1, "sweep")
            elif other.link.weight == 0.0 and weight > 0.0:
                assert now < other.until_s <= now + POLICY.most_s


def test_failures_in_a_row_eject_at_once_and_an_answer_breaks_the_row() -> None:
    outliers, (one, *_) = watching(4)
    fail(outliers, one, 0.0, 4)
    one.succeeded(1.0)
    fail(outliers, one, 0.0, 4)
    assert not one.ejected
    assert outliers.failed(one, 0.0)
    assert one.ejected
    assert not outliers.failed(one, 0.0), "what was under way fails, too, and counts no more"


def test_the_time_doubles_and_is_forgiven() -> None:
    outliers, (one, *_) = watching(4)
    now, times = 100.0, []
    for _ in range(8):
        outliers.stalled(one, now)
        times.append(one.until_s - now)
        now = one.until_s
        outliers.sweep(now)
    assert times == [2, 4, 8, 16, 32, 64, 120, 120]
    for _ in range(600):
        now += 1.0
        outliers.sweep(now)
    outliers.stalled(one, now)
    assert one.until_s - now == 2


def test_it_comes_back_slowly() -> None:
    outliers, (one, *_) = watching(2)
    outliers.stalled(one, 0.0)
    weights = []
    for now in range(14):
        outliers.sweep(float(now))
        weights.append(round(one.link.weight, 2))
    assert weights == [0, 0, 0.1, 0.19, 0.28, 0.37, 0.46, 0.55, 0.64, 0.73, 0.82, 0.91, 1, 1]


def test_one_failure_on_the_way_back_ejects_anew() -> None:
    outliers, (one, *_) = watching(2)
    outliers.stalled(one, 0.0)
    outliers.sweep(2.0)
    outliers.sweep(5.0)
    assert 0 < one.link.weight < 1
    assert outliers.failed(one, 5.0)
    assert one.until_s == 9.0


@given(st.integers(20, 200), st.floats(0.0, 1.0), st.floats(0.0, 0.3))
def test_who_fails_more_than_the_others_is_ejected(answers: int, own: float, usual: float) -> None:
    outliers, (one, *others) = watching(5, OutlierPolicy(failures_in_row=10**9))
    for watched, share in ((one, own), *((other, usual) for other in others)):
        watched.failed = round(answers * share)
        watched.succeeded(float(answers - watched.failed), answers - watched.failed)
    wanted = one.failed / answers > 0.2 + 2 * others[0].failed / answers
    assert outliers.sweep(1.0) == ([one] if wanted else [])
    assert one.answered == one.failed == one.stretched == 0


@given(st.integers(0, 200), st.floats(0.5, 10), st.floats(0.001, 0.1))
def test_who_is_slower_than_the_others_is_ejected(answers: int, stretch: float, latency_s: float) -> None:
    """But not for a few milliseconds."""
    outliers, (one, *others) = watching(5)
    for other in others:
        other.succeeded(100.0, 100)
    one.succeeded(answers * stretch, answers)
    one.link.observe(latency_s)
    is_slow = answers >= 20 and one.stretched / max(answers, 1) > 3.0 and latency_s > 0.03
    assert outliers.sweep(1.0) == ([one] if is_slow else [])


def test_what_is_wrong_with_all_ejects_none() -> None:
    outliers, watched = watching(6, OutlierPolicy(failures_in_row=10**9))
    for one in watched:
        one.failed = 60
        one.succeeded(400.0, 40)
    assert outliers.sweep(1.0) == []


def test_a_lone_link_is_never_ejected() -> None:
    outliers, (one,) = watching(1)
    fail(outliers, one, 0.0, 50)
    assert not outliers.stalled(one, 0.0)
    assert one.link.weight == 1.0
