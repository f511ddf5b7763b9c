"""The methods about quarantine."""

from __future__ import annotations

from registry.errors import NotFoundError
from registry.quarantine import Quarantine
from registry.service import pages
from registry.service.messages import check_request_id, to_quarantined
from registry.service.names import package_name, parse_package
from scoremesh.registry.v1 import registry_pb2 as pb


class Packages:
    """The packages that no scorer may load; few, so a page is cut from all of them."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    async def list(self, request: pb.ListQuarantineRequest) -> pb.ListQuarantineResponse:
        """Those that are forbidden now."""
        records = {record.package: record for record in await self._quarantine.list()}
        page = pages.page_of("quarantine", sorted(records), request.page_size, request.page_token)
        packages = [to_quarantined(records[name]) for name in page.names]
        return pb.ListQuarantineResponse(packages=packages, next_page_token=page.next_token)

    async def lift(self, request: pb.LiftQuarantineRequest) -> pb.LiftQuarantineResponse:
        """Allow it again. Nothing is left that knows a request: what isn't there is as good as lifted by it."""
        package = parse_package("name", request.name)
        request_id = check_request_id(request.request_id)
        try:
            record = await self._quarantine.lift(package)
        except NotFoundError:
            if not request_id:
                raise
            return pb.LiftQuarantineResponse(package=pb.QuarantinedPackage(name=package_name(package)))
        return pb.LiftQuarantineResponse(package=to_quarantined(record))
