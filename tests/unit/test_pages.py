from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidRequestError
from registry.layout import version_order
from registry.service.pages import DEFAULT_SIZE, MAX_SIZE, Page, last_name, page_of, shown, token_of
from scoremesh.registry.v1 import registry_pb2 as pb

NAMES = st.sets(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,7}", fullmatch=True), max_size=60).map(sorted)


def all_pages(names: list[str], size: int) -> list[list[str]]:
    pages, token = [], ""
    while True:
        page = page_of("all", names, size, token)
        pages.append(list(page.names))
        token = page.next_token
        if not token:
            return pages


@given(NAMES, st.integers(1, 70))
def test_the_pages_are_the_list(names: list[str], size: int) -> None:
    pages = all_pages(names, size)
    assert [name for page in pages for name in page] == names
    assert all(len(page) == size for page in pages[:-1])
    assert pages[-1] or not names


@given(NAMES, NAMES, st.integers(1, 10))
def test_what_stays_is_seen_once_however_the_list_changes(before: list[str], after: list[str], size: int) -> None:
    first = page_of("all", before, size, "")
    rest = [] if not first.next_token else list(page_of("all", after, MAX_SIZE, first.next_token).names)
    seen = [*first.names, *rest]
    assert len(set(seen)) == len(seen)
    assert not first.next_token or set(before) & set(after) <= set(seen)


def test_sizes() -> None:
    names = [f"{number:05}" for number in range(2500)]
    assert len(page_of("all", names, 0, "").names) == DEFAULT_SIZE
    assert len(page_of("all", names, 5000, "").names) == MAX_SIZE
    assert len(page_of("all", names, 7, "").names) == 7


def test_an_order_of_its_own() -> None:
    names = sorted((str(number) for number in range(1, 30)), key=version_order)
    first = page_of("versions", names, 9, "", key=version_order)
    second = page_of("versions", names, 9, first.next_token, key=version_order)
    assert (first.names[-1], second.names[0]) == ("9", "10")


@pytest.mark.parametrize("token", ["x", "%%%", "a" * 4000, "ä", base64.urlsafe_b64encode(b"\xff\xfe").decode()])
def test_garbage_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequestError, match="page_token"):
        page_of("all", ["a"], 1, token)


def test_a_token_is_good_for_its_own_list_alone() -> None:
    token = token_of("models of a", "m1")
    assert last_name("models of a", token) == "m1"
    with pytest.raises(InvalidRequestError, match="another list"):
        last_name("models of b", token)


def test_a_token_says_nothing_to_callers_and_travels_everywhere() -> None:
    token = token_of("models of acme", "größe/1")
    assert "acme" not in token
    assert token.isascii()
    assert not set(token) & set("+/=")


@pytest.mark.parametrize("end", ["9" * 5000, "", "a b", "acme/", "größe"])
def test_a_token_that_ends_with_no_name_is_refused(end: str) -> None:
    names = [str(number) for number in range(1, 9)]
    with pytest.raises(InvalidRequestError, match="page_token"):
        page_of("versions", names, 1, token_of("versions", end), key=version_order)


def tenant(name: str, nbytes: int) -> pb.Tenant:
    found = pb.Tenant(name=name)
    found.etag = "x" * (nbytes - found.ByteSize() - 2)
    assert found.ByteSize() == nbytes
    return found


@given(st.lists(st.one_of(st.none(), st.integers(10, 100)), max_size=20), st.integers(1, 300))
def test_pages_fit_into_messages_and_lose_nothing(sizes: list[int | None], limit_bytes: int) -> None:
    names = [f"{number:03}" for number in range(len(sizes))]
    entries = {name: tenant(name, size) if size else None for name, size in zip(names, sizes, strict=True)}
    seen, token = [], ""
    while True:
        page = page_of("all", names, 7, token)
        fitting, token = shown("all", page, [entries[name] for name in page.names], limit_bytes)
        assert len(fitting) <= 1 or sum(entry.ByteSize() for entry in fitting) <= limit_bytes
        seen += fitting
        if not token:
            break
    assert seen == [entry for entry in entries.values() if entry is not None]


def test_a_page_without_entries_leads_on() -> None:
    assert shown("all", Page(["a", "b"], "next"), [None, None]) == ([], "next")
