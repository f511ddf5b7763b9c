"""Pages of sorted names. Pure.

Contract: a token stands for the last name of the page before it, so that a list that changes between two pages loses
nothing that was there all the while and repeats nothing. It is opaque to callers, and good for the list alone that it
came from: with another one it is an InvalidRequestError, as garbage is. A page has no more than one message can hold.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from registry.errors import InvalidRequestError
from registry.model import check_name

DEFAULT_SIZE = 100
MAX_SIZE = 1000
# gRPC clients take messages of 4 MiB.
LIMIT_BYTES = 3 << 20
M = TypeVar("M", bound=Message)


class Page(NamedTuple):
    """Some of the names, and the token for those after them, "" where there are none."""

    names: Sequence[str]
    next_token: str


def page_size(asked: int) -> int:
    """How many entries a page has."""
    return min(asked or DEFAULT_SIZE, MAX_SIZE)


def token_of(scope: str, last: str) -> str:
    """The token of a page of the list `scope` that ended with `last`."""
    return base64.urlsafe_b64encode(f"{scope}\n{last}".encode()).decode().rstrip("=")


def last_name(scope: str, token: str) -> str:
    """The name that the page before ended with, "" for an empty token."""
    if not token:
        return ""
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError("page_token is none that was given out here") from error
    found, newline, last = text.partition("\n")
    if not newline or found != scope:
        raise InvalidRequestError("page_token belongs to another list")
    for part in last.split("/"):  # of a model two, else one
        check_name("page_token's end", part)
    return last


def page_of(
    scope: str, names: Sequence[str], size: int, token: str, *, key: Callable[[str], Any] = lambda name: name
) -> Page:
    """The page of `names`, which are ascending by `key`, that comes after `token`; `size` as a caller asked for it."""
    last = last_name(scope, token)
    first = bisect_right(names, key(last), key=key) if last else 0
    page = names[first : first + page_size(size)]
    more = first + len(page) < len(names)
    return Page(page, token_of(scope, page[-1]) if more else "")


def shown(scope: str, page: Page, entries: Sequence[M | None], limit_bytes: int = LIMIT_BYTES) -> tuple[list[M], str]:
    """The entries of a page, None for a name that has none, as far as they fit in a message, but one at least; and the
    token for what comes after them.
    """
    fitting: list[M] = []
    left_bytes = limit_bytes
    for place, entry in enumerate(entries):
        if entry is None:
            continue
        left_bytes -= entry.ByteSize()
        if fitting and left_bytes < 0:
            return fitting, token_of(scope, page.names[place - 1])
        fitting.append(entry)
    return fitting, page.next_token
