from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidRequestError
from registry.model import ModelRef
from registry.service import names

PARTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)


@given(PARTS, PARTS, PARTS)
def test_every_name_reads_back(tenant: str, model: str, version: str) -> None:
    ref = ModelRef(tenant, model)
    assert names.parse_tenant("name", names.tenant_name(tenant)) == tenant
    assert names.parse_model("name", names.model_name(ref)) == ref
    assert names.parse_version("name", names.version_name(ref, version)) == (ref, version)
    assert names.parse_application("name", names.application_name(model)) == model
    assert names.parse_package("name", names.package_name(version)) == version
    assert names.parse_tenants("parent", names.tenant_name(tenant)) == tenant


def test_all_tenants() -> None:
    assert names.parse_tenants("parent", "tenants/-") is None


@given(st.text())
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        ref, version = names.parse_version("name", text)
    except InvalidRequestError:
        return
    assert names.version_name(ref, version) == text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "parent: is missing: it must be of the form tenants/{tenant}/models/{model}"),
        ("tenants/acme", "parent: 'tenants/acme' is not of the form tenants/{tenant}/models/{model}"),
        ("tenants/acme/models/churn/", "is not of the form"),
        ("tenants/acme/model/churn", "is not of the form"),
        ("/tenants/acme/models/churn", "is not of the form"),
        ("tenants//models/churn", "parent: tenant is missing"),
        ("tenants/acme/models/", "parent: model is missing"),
        ("tenants/a b/models/churn", "parent: tenant 'a b' is not a valid name"),
        ("tenants/acme/models/-", "parent: model '-' is not a valid name"),
        ("tenants/acme/models/" + "m" * 129, "parent: model 'mmm"),
    ],
)
def test_what_is_wrong_is_said(name: str, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        names.parse_model("parent", name)
    assert words in caught.value.message
    assert len(caught.value.message) < 500


def test_a_package_is_called_a_package() -> None:
    with pytest.raises(InvalidRequestError, match=r"of the form quarantine/\{package\}"):
        names.parse_package("name", "packages/x")
    with pytest.raises(InvalidRequestError, match=r"package '\.\.' is not"):
        names.parse_package("name", "quarantine/..")
