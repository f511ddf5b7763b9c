"""The methods that delete versions, models and tenants, with all that is left of them."""

from __future__ import annotations

from registry.deletion import Removed, delete_model, delete_version
from registry.errors import NotFoundError
from registry.ledger import Ledger
from registry.next_record import Condition
from registry.purge import Purge
from registry.service.messages import check_request_id, from_etag
from registry.service.names import parse_model, parse_tenant, parse_version
from registry.tenant_deletion import delete_tenant
from scoremesh.registry.v1 import registry_pb2 as pb


class Deletions:
    """`purge`: makes scorers forget. A deletion that died in the middle is finished by asking for it again."""

    def __init__(self, ledger: Ledger, purge: Purge) -> None:
        self._ledger = ledger
        self._purge = purge

    async def version(self, request: pb.DeleteVersionRequest) -> pb.DeleteVersionResponse:
        """Refused while an alias or a rollout means it."""
        ref, version = parse_version("name", request.name)
        what = f"deletion of version {version}"
        condition = Condition(check_request_id(request.request_id), from_etag(request.etag), what)
        removed = await delete_version(self._ledger, ref, version, purge=self._purge, condition=condition)
        return pb.DeleteVersionResponse(removed=_to_removed(removed))

    async def model(self, request: pb.DeleteModelRequest) -> pb.DeleteModelResponse:
        """Without `force` refused while it is in use."""
        ref = parse_model("name", request.name)
        what = "deletion of the model"
        condition = Condition(check_request_id(request.request_id), from_etag(request.etag), what)
        removed = await delete_model(self._ledger, ref, force=request.force, purge=self._purge, condition=condition)
        return pb.DeleteModelResponse(removed=_to_removed(removed))

    async def tenant(self, request: pb.DeleteTenantRequest) -> pb.DeleteTenantResponse:
        """Refused while an application shares one of its models. Nothing is left that knows a request: one that isn't
        there is as good as deleted by it.
        """
        tenant = parse_tenant("name", request.name)
        request_id = check_request_id(request.request_id)
        try:
            removed = await delete_tenant(self._ledger, tenant, purge=self._purge)
        except NotFoundError:
            if not request_id:
                raise
            removed = Removed()
        return pb.DeleteTenantResponse(removed=_to_removed(removed))


def _to_removed(removed: Removed) -> pb.Removed:
    return pb.Removed(**removed._asdict())
