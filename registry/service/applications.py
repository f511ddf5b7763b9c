"""The methods about applications."""

from __future__ import annotations

import msgspec

from registry.errors import NotFoundError
from registry.ledger import Ledger
from registry.model import ApplicationRecord
from registry.service import pages
from registry.service.contracts import ContractCheck
from registry.service.messages import check_request_id, from_application, from_etag, to_application
from registry.service.models import known_record
from registry.service.names import model_name, parse_application
from registry.service.work import or_none, read_each
from registry.settings import delete_application, set_application
from scoremesh.registry.v1 import registry_pb2 as pb


class Applications:
    """One that was deleted is as one that never was."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._library = ledger.library
        self._contracts = ContractCheck(ledger.library)

    async def set(self, request: pb.SetApplicationRequest) -> pb.SetApplicationResponse:
        """Make it, or replace the one whose etag is given; if asked for, say which of its models don't keep to it."""
        request_id = check_request_id(request.request_id)
        wanted = msgspec.structs.replace(from_application(request.application), request_id=request_id)
        if wanted.shared is not None:
            await known_record(self._library, wanted.shared)
        change = set_application(wanted, from_etag(request.application.etag), allow_breaking=request.allow_breaking)
        record = await self._ledger.change_application(wanted.application, change)
        breaking = []
        if request.check_models and record.contract is not None:
            breaking = await self._contracts.breaking(record.application, record.contract)
        return pb.SetApplicationResponse(application=to_application(record), breaking_models=map(model_name, breaking))

    async def get(self, request: pb.GetApplicationRequest) -> pb.GetApplicationResponse:
        """With its contract."""
        application = parse_application("name", request.name)
        return pb.GetApplicationResponse(application=to_application(await self._known(application)))

    async def list(self, request: pb.ListApplicationsRequest) -> pb.ListApplicationsResponse:
        """Reads the records of the page, and no more."""
        names = await self._library.list_applications()
        page = pages.page_of("applications", names, request.page_size, request.page_token)
        records = await read_each(or_none(self._find), page.names)
        applications = [to_application(record) if record is not None else None for record in records]
        fitting, token = pages.shown("applications", page, applications)
        return pb.ListApplicationsResponse(applications=fitting, next_page_token=token)

    async def delete(self, request: pb.DeleteApplicationRequest) -> pb.DeleteApplicationResponse:
        """Its models stay."""
        application = parse_application("name", request.name)
        change = delete_application(from_etag(request.etag), check_request_id(request.request_id))
        record = await self._ledger.change_application(application, change)
        held = msgspec.structs.replace(record, revision=record.revision - 1)
        return pb.DeleteApplicationResponse(application=to_application(held))

    async def _known(self, application: str) -> ApplicationRecord:
        found = await self._find(application)
        if found is None:
            raise NotFoundError(f"there is no application {application!r}")
        return found

    async def _find(self, application: str) -> ApplicationRecord | None:
        found = await self._library.newest_application(application)
        return found if found is not None and not found.deleted else None
