"""What a refusal of a schema says, kind by kind."""

from __future__ import annotations

import msgspec
import pytest

from registry.contract import Difference, check, differences
from registry.errors import ContractBrokenError
from registry.model import ModelSchema, OutputKind, OutputSchema

RISK = OutputSchema("risk", OutputKind.CLASS_PROBABILITIES, ("no", "yes"))
VALUE = OutputSchema("value", OutputKind.REGRESSION)
CONTRACT = ModelSchema(
    features=("age", "city", "income", "rooms"),
    outputs=(RISK,),
    string_columns=("note", "title"),
    dtypes={"age": "int", "city": "category", "rooms": "bool"},
    categories={"city": ("Ulm", "Rom")},
)


def changed(**fields: object) -> list[Difference]:
    return differences(CONTRACT, msgspec.structs.replace(CONTRACT, **fields))


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (("age", "city", "rooms"), [("feature 3 (income)", "income", "missing")]),
        (("age", "city", "tax", "income", "rooms"), [("feature 3 (tax)", "missing", "tax")]),
        (("x", "age", "city", "income", "rooms"), [("feature 1 (x)", "missing", "x")]),
        (("age", "city", "income", "rooms", "x"), [("feature 5 (x)", "missing", "x")]),
        (("age", "city", "salary", "rooms"), [("feature 3 (income)", "income", "salary")]),
        (("city", "income", "rooms", "age"), [("feature 1 (age)", "feature 1, before city", "feature 4, after city")]),
        (
            ("rooms", "age", "city", "income"),
            [("feature 4 (rooms)", "feature 4, after income", "feature 1, before income")],
        ),
        (
            ("age", "a", "b", "rooms"),
            [("feature 2 (city)", "city", "a"), ("feature 3 (income)", "income", "b")],
        ),
        (
            ("age", "a", "income", "rooms", "b"),
            [("feature 2 (city)", "city", "a"), ("feature 5 (b)", "missing", "b")],
        ),
        (
            ("age", "city", "city", "rooms"),  # a name twice: compared place by place
            [("feature 3 (income)", "income", "city")],
        ),
    ],
)
def test_features(features: tuple[str, ...], expected: list[Difference]) -> None:
    assert changed(features=features) == expected


@pytest.mark.parametrize(
    ("was", "now"),
    [(("a",), ()), ((), ("a",)), (("a", "a"), ("a",)), (("missing",), ()), (("a", "a", "missing"), ("a", "a"))],
)
def test_features_that_are_all_one_has(was: tuple[str, ...], now: tuple[str, ...]) -> None:
    [found] = differences(ModelSchema(was, ()), ModelSchema(now, ()))
    assert "missing" in (found.was, found.now)


def test_one_feature_in_the_middle_of_many_is_one_difference() -> None:
    names = tuple(f"f{number}" for number in range(20_000))
    now = (*names[:10_000], "new", *names[10_000:])
    assert differences(ModelSchema(names, ()), ModelSchema(now, ())) == [("feature 10001 (new)", "missing", "new")]


def test_many_renamed_features_are_found_one_by_one() -> None:
    names = [f"f{number}" for number in range(20_000)]
    now = [f"new-{name}" if place % 2 else name for place, name in enumerate(names)]
    found = differences(ModelSchema(tuple(names), ()), ModelSchema(tuple(now), ()))
    assert found == [(f"feature {n + 1} (f{n})", f"f{n}", f"new-f{n}") for n in range(1, 20_000, 2)]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ({"city": "category", "rooms": "bool"}, []),  # an int's callers can call a number
        ({"age": "int", "rooms": "bool"}, [("dtype of feature 2 (city)", "category", "number")]),
        ({"age": "bool", "city": "category", "rooms": "bool"}, [("dtype of feature 1 (age)", "int", "bool")]),
        (
            {"age": "int", "city": "category", "rooms": "bool", "income": "int"},
            [("dtype of feature 3 (income)", "number", "int")],
        ),
        ({"age": "int", "city": "category"}, [("dtype of feature 4 (rooms)", "bool", "number")]),
    ],
)
def test_dtypes(dtypes: dict[str, str], expected: list[Difference]) -> None:
    assert changed(dtypes=dtypes) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("Ulm", "Rom", "Bonn"), []),
        (("Ulm",), [("category 2 of feature 2 (city)", "Rom", "missing")]),
        ((), [("category 1 of feature 2 (city)", "Ulm", "missing")]),
        (("Rom", "Ulm"), [("category 1 of feature 2 (city)", "Ulm", "Rom")]),
        (("Ulm", "Bonn", "Rom"), [("category 2 of feature 2 (city)", "Rom", "Bonn")]),
    ],
)
def test_categories(values: tuple[str, ...], expected: list[Difference]) -> None:
    assert changed(categories={"city": values}) == expected


def test_text_columns_travel_by_name() -> None:
    assert changed(string_columns=("title", "note")) == []
    assert changed(string_columns=("note",)) == [("text column title", "title", "missing")]
    assert changed(string_columns=("note", "title", "url")) == [("text column url", "missing", "url")]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ((VALUE, RISK), []),
        ((VALUE,), [("output risk", "class_probabilities", "missing")]),
        (
            (msgspec.structs.replace(RISK, kind=OutputKind.MULTI_OUTPUT),),
            [("kind of output risk", "class_probabilities", "multi_output")],
        ),
        (
            (msgspec.structs.replace(RISK, columns=("yes", "no")),),
            [("column 1 of output risk", "no", "yes")],
        ),
        (
            (msgspec.structs.replace(RISK, columns=("no", "yes", "unsure")),),
            [("column 3 of output risk", "missing", "unsure")],
        ),
        ((msgspec.structs.replace(RISK, columns=("no",)),), [("column 2 of output risk", "yes", "missing")]),
    ],
)
def test_outputs(outputs: tuple[OutputSchema, ...], expected: list[Difference]) -> None:
    assert changed(outputs=outputs) == expected


def test_all_that_breaks_is_told_at_once() -> None:
    found = differences(CONTRACT, ModelSchema(("age",), (VALUE,), dtypes={"age": "category"}))
    assert [difference.field for difference in found] == [
        "feature 2 (city)",
        "feature 3 (income)",
        "feature 4 (rooms)",
        "dtype of feature 1 (age)",
        "text column note",
        "text column title",
        "output risk",
    ]


def test_a_refusal_shows_the_first_differences_and_counts_the_others() -> None:
    check("model acme/churn", CONTRACT, CONTRACT)
    many = msgspec.structs.replace(CONTRACT, features=CONTRACT.features + tuple(f"x{n}" for n in range(23)))
    with pytest.raises(ContractBrokenError) as caught:
        check("model acme/churn", CONTRACT, many)
    text = caught.value.message
    assert text.startswith("the schema breaks the contract of model acme/churn: feature 5 (x0): was missing, is x0; ")
    assert text.endswith("feature 24 (x19): was missing, is x19; and 3 more")
    with pytest.raises(ContractBrokenError, match="of application churn: contract: was there, is missing"):
        check("application churn", CONTRACT, None)
