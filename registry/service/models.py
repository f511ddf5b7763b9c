"""The methods about models and their aliases."""

from __future__ import annotations

import asyncio

from registry.alias_moves import AliasMoves
from registry.ledger import Ledger
from registry.library import Library, no_model
from registry.manifest import AliasRecord
from registry.model import LIVE, ModelRef
from registry.next_record import EMPTY, Condition
from registry.service import pages
from registry.service.listing import ModelNames
from registry.service.messages import check_request_id, from_etag, to_model
from registry.service.names import check_part, parse_model, parse_tenants
from registry.service.version_list import names_of_versions, newest_versions
from registry.service.work import or_none, read_each
from scoremesh.registry.v1 import registry_pb2 as pb

_NEW_ALIAS = "-"


class Models:
    """`moves` prepare scorers before an alias moves, `cold_moves` don't."""

    def __init__(self, ledger: Ledger, moves: AliasMoves, cold_moves: AliasMoves) -> None:
        self._library: Library = ledger.library
        self._names = ModelNames(ledger.library)
        self._moves = moves
        self._cold_moves = cold_moves

    async def get(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        """With its newest versions, as lists show them, and the schemas of some."""
        ref = parse_model("name", request.name)
        found, names = await asyncio.gather(self._library.newest_aliases(ref), names_of_versions(self._library, ref))
        record = found or EMPTY
        if record.gone or not (record.revision or names):
            raise no_model(ref)
        there = [name for name in names if name not in record.deleted]
        versions = await newest_versions(self._library, ref, record, there)
        return pb.GetModelResponse(model=to_model(ref, record, versions))

    async def list(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        """Reads the records of the page, and no more."""
        tenant = parse_tenants("parent", request.parent)
        page = await self._names.page(tenant, request.page_size, request.page_token)
        records = await read_each(or_none(self._library.newest_aliases), page.refs)
        there = [None if record is None or record.gone else record for record in records]
        pairs = zip(page.refs, there, strict=True)
        models = [to_model(ref, record) if record is not None else None for ref, record in pairs]
        fitting, token = pages.shown(page.scope, page.as_names(), models)
        return pb.ListModelsResponse(models=fitting, next_page_token=token)

    async def set_alias(self, request: pb.SetAliasRequest) -> pb.SetAliasResponse:
        """Load first, then move; with `unprepared` move at once."""
        ref = parse_model("model", request.model)
        alias = alias_of(request.alias)
        version = check_part("version", "version", request.version)
        moves = self._cold_moves if request.unprepared else self._moves
        condition = Condition(check_request_id(request.request_id), from_etag(request.etag))
        record = await moves.point(ref, alias, version, condition, expected=_expected(request.expected_version))
        return pb.SetAliasResponse(model=to_model(ref, record))

    async def remove_alias(self, request: pb.RemoveAliasRequest) -> pb.RemoveAliasResponse:
        """One that isn't there is as good as removed."""
        ref = parse_model("model", request.model)
        alias = alias_of(request.alias)
        condition = Condition(check_request_id(request.request_id), from_etag(request.etag))
        await known_record(self._library, ref)
        return pb.RemoveAliasResponse(model=to_model(ref, await self._moves.remove(ref, alias, condition)))

    async def roll_back(self, request: pb.RollBackAliasRequest) -> pb.RollBackAliasResponse:
        """Back to the version before."""
        ref = parse_model("model", request.model)
        alias = alias_of(request.alias)
        condition = Condition(check_request_id(request.request_id), from_etag(request.etag))
        return pb.RollBackAliasResponse(model=to_model(ref, await self._moves.roll_back(ref, alias, condition)))


def alias_of(alias: str) -> str:
    """The alias that is meant."""
    return check_part("alias", "alias", alias) if alias else LIVE


def _expected(version: str) -> str | None:
    if version == _NEW_ALIAS:
        return ""
    return check_part("expected_version", "version", version) if version else None


async def known_record(library: Library, ref: ModelRef) -> AliasRecord:
    """The record of a model. Raises ModelNotFoundError."""
    record = await library.newest_aliases(ref)
    if record is None or record.gone:
        raise no_model(ref)
    return record
