"""Which models come next in a list, without reading one of them.

Contract: models are in the order of tenant, then model. Names come from the folders of object storage, of as many
tenants as fill the page. A tenant's folders can't be listed from the middle, and 100,000 take seconds; so the first
page of a list looks anew, and the pages after it go by what was found then, for two minutes at most. A model that is
new since may be missing from these.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import NamedTuple

from registry.errors import InvalidRequestError
from registry.library import Library
from registry.model import ModelRef
from registry.service import pages
from registry.service.work import read_each

_TENANTS_AT_ONCE = 32
_FRESH_S = 120.0
_WORTH_KEEPING = 1000
_KEPT = 1_000_000


class ModelPage(NamedTuple):
    """Some models, and the token for those after them, "" where there are none. `scope`: the list that it's of."""

    refs: list[ModelRef]
    next_token: str
    scope: str

    def as_names(self) -> pages.Page:
        """The same, as `registry.service.pages` has it."""
        return pages.Page([str(ref) for ref in self.refs], self.next_token)


class ModelNames:
    """Lists the names of tenants' models, and keeps long lists for the pages that follow: a million names at most,
    those that were listed last.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._kept: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()

    async def page(self, tenant: str | None, size: int, token: str) -> ModelPage:
        """The page after `token` of a tenant's models, or with None of everybody's; `size` as a caller asked for it.

        Raises:
            InvalidRequestError: the token is none of this list.
        """
        scope = f"models of {tenant or 'all'}"
        after = _after(pages.last_name(scope, token))
        wanted = pages.page_size(size)
        tenants = [tenant] if tenant is not None else await self._library.list_tenants()
        refs = await self._following(tenants[bisect_left(tenants, after.tenant) :], after, wanted + 1)
        page = refs[:wanted]
        return ModelPage(page, pages.token_of(scope, str(page[-1])) if len(refs) > wanted else "", scope)

    async def _following(self, tenants: list[str], after: ModelRef, wanted: int) -> list[ModelRef]:
        """At least `wanted` models after that one, or all that there are."""

        async def read(tenant: str) -> list[str]:
            names = (self._known(tenant) if after.tenant else []) or await self._list(tenant)
            return names[bisect_right(names, after.model) :] if tenant == after.tenant else names

        refs: list[ModelRef] = []
        first, count = 0, 1  # the first one alone, as it may be large enough
        while first < len(tenants) and len(refs) < wanted:
            some = tenants[first : first + count]
            for tenant, models in zip(some, await read_each(read, some), strict=True):
                refs += [ModelRef(tenant, model) for model in models[:wanted]]
            first, count = first + count, _TENANTS_AT_ONCE
        return refs

    def _known(self, tenant: str) -> list[str]:
        listed_at, names = self._kept.get(tenant, (-_FRESH_S, []))
        return names if time.monotonic() - listed_at < _FRESH_S else []

    async def _list(self, tenant: str) -> list[str]:
        names = await self._library.list_models(tenant)
        self._kept.pop(tenant, None)
        if len(names) >= _WORTH_KEEPING:
            self._kept[tenant] = (time.monotonic(), names)
        while sum(len(kept) for _, kept in self._kept.values()) > _KEPT:
            self._kept.popitem(last=False)
        return names


def _after(last: str) -> ModelRef:
    if not last:
        return ModelRef("", "")
    parts = last.split("/")
    if len(parts) != 2:
        raise InvalidRequestError("page_token is none that was given out here")
    return ModelRef(*parts)
