"""Which models of an application break its contract.

Contract: nothing tells the models of an application but their own records, so all models of all tenants are looked at,
in the order of their names, until enough are found; of those that belong to it, the schema of the live version. One
without a live version breaks nothing. What is damaged is left out, and the log tells of it.
"""

from __future__ import annotations

from registry.contract import differences
from registry.library import Library
from registry.manifest import AliasRecord
from registry.model import LIVE, ModelRef, ModelSchema
from registry.service.listing import ModelNames
from registry.service.pages import MAX_SIZE
from registry.service.work import or_none, read_each

_MOST = 20


class ContractCheck:
    """See the module."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._names = ModelNames(library)

    async def breaking(self, application: str, contract: ModelSchema, most: int = _MOST) -> list[ModelRef]:
        """The first models of the application whose live version doesn't keep to the contract."""
        found: list[ModelRef] = []
        breaks: dict[str, bool] = {}  # by the schema's digest: most models of an application have the same
        token = ""
        while True:
            page = await self._names.page(None, MAX_SIZE, token)
            records = await read_each(or_none(self._library.newest_aliases), page.refs)
            for ref, record in zip(page.refs, records, strict=True):
                digest = _live_schema(record, application)
                if digest and digest not in breaks:
                    breaks[digest] = await self._breaks(ref, digest, contract)
                if digest and breaks[digest]:
                    found.append(ref)
                if len(found) == most:
                    return found
            token = page.next_token
            if not token:
                return found

    async def _breaks(self, ref: ModelRef, digest: str, contract: ModelSchema) -> bool:
        async def read(digest: str) -> ModelSchema | None:
            return await self._library.read_schema(ref.tenant, digest)

        schema = await or_none(read)(digest)
        return schema is not None and bool(differences(contract, schema))


def _live_schema(record: AliasRecord | None, application: str) -> str:
    """The digest of the live version's schema, "" where there is none, or the model isn't the application's."""
    if record is None or record.gone or record.application != application or LIVE not in record.aliases:
        return ""
    return record.versions[record.aliases[LIVE]].schema
