"""The methods about tenants."""

from __future__ import annotations

import msgspec

from registry.errors import NotFoundError, TenantExistsError
from registry.ledger import Ledger
from registry.model import TenantRecord
from registry.service import pages
from registry.service.messages import check_request_id, from_etag, from_tenant, to_tenant
from registry.service.names import parse_tenant
from registry.service.work import or_none, read_each
from registry.settings import create_tenant, update_tenant
from scoremesh.registry.v1 import registry_pb2 as pb


class Tenants:
    """A tenant is known that has settings or models; one without settings has the defaults."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._library = ledger.library

    async def create(self, request: pb.CreateTenantRequest) -> pb.CreateTenantResponse:
        """Its first settings. Refused where there are some, but brings etcd what was left undone."""
        wanted = _wanted(request)
        try:
            record = await self._ledger.change_tenant(wanted.tenant, create_tenant(wanted))
        except TenantExistsError:
            await self._ledger.change_tenant(wanted.tenant, lambda record: record)
            raise
        return pb.CreateTenantResponse(tenant=to_tenant(record))

    async def update(self, request: pb.UpdateTenantRequest) -> pb.UpdateTenantResponse:
        """All its settings."""
        wanted = _wanted(request)
        await self._known(wanted.tenant)
        change = update_tenant(wanted, from_etag(request.tenant.etag))
        return pb.UpdateTenantResponse(tenant=to_tenant(await self._ledger.change_tenant(wanted.tenant, change)))

    async def get(self, request: pb.GetTenantRequest) -> pb.GetTenantResponse:
        """Its settings."""
        return pb.GetTenantResponse(tenant=to_tenant(await self._known(parse_tenant("name", request.name))))

    async def list(self, request: pb.ListTenantsRequest) -> pb.ListTenantsResponse:
        """Reads the settings of the page, and no more."""
        names = await self._library.list_tenants()
        page = pages.page_of("tenants", names, request.page_size, request.page_token)
        records = await read_each(or_none(self._find), page.names)
        tenants = [to_tenant(record) for record in records if record is not None]
        return pb.ListTenantsResponse(tenants=tenants, next_page_token=page.next_token)

    async def _known(self, tenant: str) -> TenantRecord:
        found = await self._find(tenant)
        if found is None:
            raise NotFoundError(f"there is no tenant {tenant!r}")
        return found

    async def _find(self, tenant: str) -> TenantRecord | None:
        settings = await self._library.newest_tenant(tenant)
        if settings is None and await self._library.list_models(tenant):
            return TenantRecord(tenant=tenant)
        return settings


def _wanted(request: pb.CreateTenantRequest | pb.UpdateTenantRequest) -> TenantRecord:
    request_id = check_request_id(request.request_id)
    return msgspec.structs.replace(from_tenant(request.tenant), request_id=request_id)
