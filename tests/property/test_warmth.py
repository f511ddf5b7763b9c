from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.warmth import ModelKey, Warmth

MODELS: list[ModelKey] = [("acme", f"m{number}") for number in range(8)]
MEMBERS = ("s1", "s2", "s3")
steps = st.lists(
    st.tuples(
        st.sampled_from(["learn", "learn", "learn", "forget"]),
        st.sampled_from(MODELS),
        st.sampled_from(MEMBERS),
        st.floats(0, 20),
    ),
    max_size=80,
)


@given(steps, st.integers(1, 10))
def test_only_what_was_learnt_lately_is_believed(history: list[tuple[str, ModelKey, str, float]], most: int) -> None:
    """Against a model that forgets nothing for want of room: what is believed is true there, and where there's room for
    all, all of it is believed."""
    warmth, now, learnt = Warmth(ttl_s=60.0, most_models=most), 0.0, dict[tuple[ModelKey, str], float]()
    for what, model, member, pause_s in history:
        now += pause_s
        if what == "learn":
            warmth.learn(model, member, now)
            learnt[model, member] = now
        else:
            warmth.forget(model, member)
            learnt.pop((model, member), None)
        assert len(warmth) <= 2 * most
        for known in MODELS:
            for who in MEMBERS:
                at = learnt.get((known, who))
                is_true = at is not None and now - at <= 60.0
                believed = warmth.is_warm(known, who, now)
                assert believed == is_true if most >= len(MODELS) else believed <= is_true


def test_what_was_learnt_last_is_kept() -> None:
    warmth = Warmth(most_models=3)
    for model in MODELS:
        warmth.learn(model, "s1", 0.0)
        warmth.learn(MODELS[0], "s1", 0.0)
    assert [model for model in MODELS if warmth.is_warm(model, "s1", 0.0)][-3:] == MODELS[-3:]
    assert warmth.is_warm(MODELS[0], "s1", 0.0)


def test_a_model_that_is_asked_for_keeps_all_its_members() -> None:
    warmth = Warmth(most_models=1)
    warmth.learn(MODELS[0], "s1", 0.0)
    warmth.learn(MODELS[0], "s2", 1.0)
    warmth.learn(MODELS[1], "s1", 2.0)
    warmth.learn(MODELS[0], "s1", 3.0)
    assert warmth.is_warm(MODELS[0], "s2", 4.0)
