"""Keeping to a contract is an order; each change of a schema that matters is found, and no other."""

from __future__ import annotations

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from registry.contract import differences
from registry.model import ModelSchema, OutputKind, OutputSchema

NAMES = st.sampled_from(["a", "b", "c", "d", "e", "missing", "1"])
KINDS = st.sampled_from(list(OutputKind))
DTYPES = st.sampled_from(["int", "bool", "category"])
_replace = msgspec.structs.replace


def names(min_size: int = 0, max_size: int = 5) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(NAMES, min_size=min_size, max_size=max_size, unique=True).map(tuple)


OUTPUTS = st.lists(
    st.builds(OutputSchema, NAMES, KINDS, names(max_size=3)), max_size=3, unique_by=lambda output: output.name
).map(tuple)


@st.composite
def schemas(draw: st.DrawFn) -> ModelSchema:
    features, strings = draw(names()), draw(names(max_size=2))
    dtypes = draw(st.dictionaries(st.sampled_from(features), DTYPES)) if features else {}
    categories = {name: draw(names(max_size=3)) for name, dtype in dtypes.items() if dtype == "category"}
    return ModelSchema(features, draw(OUTPUTS), strings, dtypes, categories)


@st.composite
def followers(draw: st.DrawFn, schema: ModelSchema) -> ModelSchema:
    """A schema that keeps to another one: wider numbers, more categories, more outputs, another order where it is
    free.
    """
    widened = draw(st.sets(st.sampled_from(schema.features))) if schema.features else set()
    dtypes = {name: dtype for name, dtype in schema.dtypes.items() if dtype != "int" or name not in widened}
    categories = {
        name: (*values, *(value for value in draw(names(max_size=2)) if value not in values))
        for name, values in schema.categories.items()
    }
    known = {output.name for output in schema.outputs}
    outputs = [*schema.outputs, *(output for output in draw(OUTPUTS) if output.name not in known)]
    return ModelSchema(
        schema.features,
        tuple(draw(st.permutations(outputs))),
        tuple(draw(st.permutations(schema.string_columns))),
        dtypes,
        categories,
    )


@given(schemas())
def test_every_schema_keeps_to_itself(schema: ModelSchema) -> None:
    assert differences(schema, schema) == []
    assert differences(schema, msgspec.convert(msgspec.to_builtins(schema), ModelSchema)) == []


@given(schemas(), st.data())
def test_what_does_not_matter_is_not_found_and_followers_may_have_followers(
    schema: ModelSchema, data: st.DataObject
) -> None:
    follower = data.draw(followers(schema))
    second = data.draw(followers(follower))
    assert differences(schema, follower) == []
    assert differences(follower, second) == []
    assert differences(schema, second) == []


@given(schemas(), schemas(), schemas())
def test_transitive(first: ModelSchema, second: ModelSchema, third: ModelSchema) -> None:
    """Of any three, most break; where two steps hold, so does the whole way."""
    if not differences(first, second) and not differences(second, third):
        assert differences(first, third) == []


@given(schemas(), schemas())
def test_a_difference_shows_a_difference(contract: ModelSchema, schema: ModelSchema) -> None:
    found = differences(contract, schema)
    assert all(difference.was != difference.now or "missing" in difference for difference in found)
    assert len(set(found)) == len(found)


@st.composite
def broken(draw: st.DrawFn, schema: ModelSchema) -> ModelSchema:
    """The schema after one change of those that callers feel."""
    what = draw(st.sampled_from(["feature", "order", "dtype", "categories", "strings", "outputs"]))
    if what == "feature":
        return _replace(schema, features=_changed(draw, schema.features))
    if what == "order":
        return _replace(schema, features=tuple(draw(st.permutations(schema.features))))
    if what == "dtype":
        assume(schema.features)
        name, dtype = draw(st.sampled_from(schema.features)), draw(DTYPES)
        return _replace(schema, dtypes=schema.dtypes | {name: dtype})
    if what == "categories":
        assume(any(schema.categories.values()))
        name = draw(st.sampled_from([name for name, values in schema.categories.items() if values]))
        values = schema.categories[name]
        place = draw(st.integers(0, len(values) - 1))
        kept = values[:place] if draw(st.booleans()) else (*values[:place], "new", *values[place:])
        return _replace(schema, categories=schema.categories | {name: kept})
    if what == "strings":
        return _replace(schema, string_columns=_changed(draw, schema.string_columns))
    assume(schema.outputs)
    place = draw(st.integers(0, len(schema.outputs) - 1))
    output = schema.outputs[place]
    instead = draw(st.sampled_from([(), (_other_output(draw, output),)]))
    return _replace(schema, outputs=(*schema.outputs[:place], *instead, *schema.outputs[place + 1 :]))


def _changed(draw: st.DrawFn, old: tuple[str, ...]) -> tuple[str, ...]:
    """One name less, more or other."""
    place = draw(st.integers(0, len(old)))
    new = draw(st.sampled_from([(), ("new",)]))
    rest = old[place + 1 :] if draw(st.booleans()) else old[place:]
    return (*old[:place], *new, *rest)


def _other_output(draw: st.DrawFn, output: OutputSchema) -> OutputSchema:
    if draw(st.booleans()):
        return _replace(output, kind=draw(KINDS))
    return _replace(output, columns=_changed(draw, output.columns))


@given(schemas(), st.data())
def test_each_change_that_matters_is_found(schema: ModelSchema, data: st.DataObject) -> None:
    changed = data.draw(broken(schema))
    assume(changed != schema)
    assert differences(schema, changed)
    assert differences(data.draw(followers(schema)), changed)


@given(names(max_size=5), names(max_size=5))
def test_features_are_told_by_as_few_differences_as_explain_them(was: tuple[str, ...], now: tuple[str, ...]) -> None:
    """Never more than place by place, and none that wasn't needed: with the told moves, renames, losses and additions
    undone, the rest is in order.
    """
    found = differences(ModelSchema(was, ()), ModelSchema(now, ()))
    told = {name for difference in found for name in _names_of(difference.field, difference.was, difference.now)}
    assert [name for name in was if name not in told] == [name for name in now if name not in told]
    assert bool(found) == (was != now)
    assert len(found) <= len(was) + len(now)


def _names_of(field: str, was: str, now: str) -> set[str]:
    inside = field.partition("(")[2].rstrip(")")
    return {inside} | {name for name in (was, now) if not name.startswith("feature ")}
