"""What the command line of the load generator means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ops.load.headers import Headers, parse_header
from ops.load.options import check_spec, parse_class, parse_model, parse_rows, read_models
from ops.load.spec import LoadModel, Pattern, RowShare, Target, TenantClass, Tls
from registry.errors import InvalidRequestError
from tests.unit.load_specs import spec_of


def test_a_class_is_read() -> None:
    found = parse_class("greedy,rate=100,tenants=t-9*,pattern=cycle,from_s=10,until_s=20.5")
    assert found == TenantClass(
        name="greedy", rate=100.0, tenants="t-9*", pattern=Pattern.CYCLE, from_s=10.0, until_s=20.5
    )
    assert parse_class("victims,rate=4,zipf=0.9,churn_s=5,churn_models=10").churn_models == 10


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("victims", "missing required field `rate`"),
        ("victims,rate=0", "rate above 0"),
        ("victims,rate=-1", "numbers from 0 on"),
        ("victims,rate=nan", "numbers from 0 on"),
        ("victims,rate=inf", "numbers from 0 on"),
        ("victims,rate=1,zipf=-1", "numbers from 0 on"),
        ("victims,rate=fast", "Expected `float`"),
        ("victims,rate=1,speed=2", "'speed' is unknown; there are rate"),
        ("victims,rate=1,name=other", "'name' is unknown"),
        ("victims,rate=1,pattern=circle", "Invalid enum value 'circle'"),
        ("victims,rate=1,from_s=5,until_s=5", "until_s isn't after from_s"),
        ("all,rate=1", "another name than all"),
        (",rate=1", "class is missing"),
        ("a/b,rate=1", "not a valid name"),
    ],
)
def test_a_class_that_makes_no_sense_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        parse_class(text)


def test_headers_are_read() -> None:
    assert parse_header("x-team=risk=a b") == ("x-team", "risk=a b")
    assert parse_header("x-empty=") == ("x-empty", "")
    for text in (
        "",
        "x-team",
        "=risk",
        "X-Team=risk",
        "x team=risk",
        ":path=/",
        "x-team=r\nisk",
        "x=ü",
        "x=" + "v" * 5000,
    ):
        with pytest.raises(InvalidRequestError, match="wanted name=value"):
            parse_header(text)
    for text in ("grpc-timeout=1S", "te=x", "content-type=text", "key-bin=AA"):
        with pytest.raises(InvalidRequestError, match="gRPC sets itself"):
            parse_header(text)


def test_headers_name_the_model_of_each_request() -> None:
    models = (LoadModel("acme", "lead", 3), LoadModel("", "iris", 4))
    headers = Headers([("model-id", "{tenant}.{model}"), ("x-team", "risk")], models)
    assert [headers.of(place) for place in (0, 1)] == [
        b"\0\x08model-id\x09acme.lead\0\x06x-team\x04risk",
        b"\0\x08model-id\x05.iris\0\x06x-team\x04risk",
    ]
    assert Headers([], models).of(0) == b""
    same = Headers([("x-team", "risk")], models)
    assert same.of(0) is same.of(1)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"target": Target.CLIENT, "headers": (("x-team", "risk"),)}, "headers of its own"),
        ({"target": Target.BATCH, "batch": 4, "headers": (("id", "{model}"),)}, "name the model of a batch"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        check_spec(spec_of(TenantClass(name="all", rate=1.0), **more))


def test_rows_are_read() -> None:
    assert parse_rows("1") == (RowShare(1, 1.0),)
    assert parse_rows("1:0.9,16:0.1") == (RowShare(1, 0.9), RowShare(16, 0.1))
    for text in ("", "0", "1:0", "1:-1", "1:nan", "a", "1,,2"):
        with pytest.raises(InvalidRequestError, match="rows"):
            parse_rows(text)


def test_models_are_read(tmp_path: Path) -> None:
    assert parse_model("acme/lead:30") == LoadModel("acme", "lead", 30)
    assert parse_model("lead:3") == LoadModel("", "lead", 3)
    for text in ("acme/lead", "acme/lead:", "acme/lead:0", "acme/:3", "acme/lead:-3"):
        with pytest.raises(InvalidRequestError, match="wanted TENANT/MODEL:FEATURES"):
            parse_model(text)
    path = tmp_path / "models.jsonl"
    path.write_text('{"tenant":"a","model":"m","features":3}\n{"tenant":"b","model":"n","features":4,"group":"g"}\n')
    assert read_models(path) == (LoadModel("a", "m", 3), LoadModel("b", "n", 4, "g"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no model"),
        ('{"tenant":"a","model":"m","features":3}\n{"tenant":"a"}\n', "line 2 of .*missing required field `model`"),
        ('{"tenant":"a","model":"m","features":0}\n', "line 1 of .*at least one feature"),
        ("tenant a\n", "line 1 of .*malformed"),
    ],
)
def test_a_bad_file_of_models_is_named(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "models.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidRequestError, match=why):
        read_models(path)
    with pytest.raises(InvalidRequestError, match="can't read"):
        read_models(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"addresses": ()}, "no server"),
        ({"addresses": ("somewhere",)}, "server 'somewhere': wanted HOST:PORT"),
        ({"addresses": ("a:99999",)}, "wanted HOST:PORT"),
        ({"classes": (TenantClass(name="a", rate=1.0), TenantClass(name="a", rate=2.0))}, "two classes have one name"),
        ({"classes": (TenantClass(name="a", rate=1.0, tenants="x*"),)}, "no model of class 'a'"),
        ({"classes": (TenantClass(name="a", rate=1e6),), "duration_s": 1e6}, "too many for one run"),
        ({"classes": (TenantClass(name="a", rate=1.0, pattern=Pattern.CYCLE, churn_s=1.0),)}, "cycles through"),
        ({"tls": Tls(ca="/nowhere/ca.pem")}, "no certificate file /nowhere/ca.pem"),
        ({"tls": Tls(cert=__file__)}, "a certificate needs its key"),
    ],
)
def test_what_cannot_be_sent_is_refused(more: dict[str, Any], why: str) -> None:
    check_spec(spec_of())
    with pytest.raises(InvalidRequestError, match=why):
        check_spec(spec_of(*more.pop("classes", ()), **more))
