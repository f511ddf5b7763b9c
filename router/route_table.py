"""Which links lead to a model, in the order of their ranks; of one membership epoch."""

from __future__ import annotations

from collections.abc import Mapping

from registry.placement import Placement
from router.choice import Route
from router.link import Link

_CACHED_WAYS = 100_000


class Way:
    """The links of a model's candidates, by rank, and what `router.choice` knows of them."""

    __slots__ = ("links", "model", "route", "tenant")

    def __init__(self, tenant: str, model: str, links: tuple[Link, ...], owners: int) -> None:
        self.tenant = tenant
        self.model = model
        self.links = links
        self.route = Route([link.load for link in links], owners)


class RouteTable:
    """The ways of one placement. Immutable but for its cache of answers. `links`: by member id. `why_none`: what to
    tell callers where there is no way.
    """

    def __init__(self, placement: Placement, links: Mapping[str, Link], why_none: str) -> None:
        self._placement, self._links = placement, links
        self.why_none = why_none
        self._ways: dict[tuple[str, str], Way] = {}

    def find(self, tenant: str, model: str) -> Way | None:
        """The way to a model; None where nobody is there."""
        way = self._ways.get((tenant, model))
        return way if way is not None else self._make(tenant, model)

    def _make(self, tenant: str, model: str) -> Way | None:
        members = self._placement.candidates(tenant, model)
        links = tuple(self._links[member.id] for member in members if member.id in self._links)
        if not links:
            return None
        if len(self._ways) >= _CACHED_WAYS:
            self._ways.clear()
        way = self._ways[(tenant, model)] = Way(tenant, model, links, min(self._placement.replicas, len(links)))
        return way
