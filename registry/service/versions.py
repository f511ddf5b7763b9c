"""The methods about versions: publish, get, list, retire, delete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from registry import change
from registry.errors import ModelNotFoundError
from registry.layout import version_order
from registry.ledger import Ledger
from registry.library import Library, no_model, state_of
from registry.manifest import AliasRecord, Manifest
from registry.model import ModelRef
from registry.next_record import EMPTY, Condition
from registry.publish import Publisher
from registry.service import pages
from registry.service.messages import check_request_id, from_etag, to_registered, to_version
from registry.service.names import parse_model, parse_version
from registry.service.plan import Plan
from registry.service.uploads import Messages, Upload, Uploads
from registry.service.version_list import names_of_versions, read_versions
from registry.service.work import Work
from scoremesh.registry.v1 import registry_pb2 as pb


class Versions:
    """`publisher_of`: the publisher that notes this name in manifests."""

    def __init__(self, ledger: Ledger, publisher_of: Callable[[str], Publisher], uploads: Uploads, work: Work) -> None:
        self._ledger = ledger
        self._library: Library = ledger.library
        self._publisher_of = publisher_of
        self._uploads = uploads
        self._work = work

    async def publish(self, messages: Messages, caller: str) -> pb.PublishVersionResponse:
        """Take the file in, then publish it; from there on to the end, whether the caller waits or not."""
        spec = await self._uploads.spec(messages)
        plan = Plan(spec)
        upload = await self._uploads.receive(messages, plan.sha256)
        manifest, record = await self._work.finish(self._publish(upload, plan, caller))
        schema = await self._library.read_schema(manifest.tenant, manifest.schema)
        version = to_version(manifest, state_of(record, manifest.version), schema)
        return pb.PublishVersionResponse(version=version)

    async def _publish(self, upload: Upload, plan: Plan, caller: str) -> tuple[Manifest, AliasRecord]:
        try:
            manifest = await self._publisher_of(caller).publish(
                upload.path,
                plan.ref,
                version=plan.version,
                runtime=plan.runtime,
                aliases=plan.aliases,
                facts=plan.facts,
                request_id=plan.request_id,
            )
        finally:
            upload.close()
        return manifest, await self._library.newest_aliases(plan.ref) or EMPTY

    async def get(self, request: pb.GetVersionRequest) -> pb.GetVersionResponse:
        """With its schema and golden rows."""
        ref, version = parse_version("name", request.name)
        record = await self._record(ref)
        return pb.GetVersionResponse(version=await self._whole(ref, version, record))

    async def list(self, request: pb.ListVersionsRequest) -> pb.ListVersionsResponse:
        """Reads what the page shows, and no more."""
        ref = parse_model("parent", request.parent)
        record, names = await asyncio.gather(self._record(ref), names_of_versions(self._library, ref))
        if not (names or record.revision):
            raise no_model(ref)
        there = [name for name in names if name not in record.deleted]
        page = pages.page_of(request.parent, there, request.page_size, request.page_token, key=version_order)
        listed = await read_versions(self._library, ref, record, page.names)
        versions = [each.version if each is not None else None for each in listed]
        fitting, token = pages.shown(request.parent, page, versions)
        return pb.ListVersionsResponse(versions=fitting, next_page_token=token)

    async def retire(self, request: pb.RetireVersionRequest) -> pb.RetireVersionResponse:
        """Nothing may mean it any more."""
        ref, version = parse_version("name", request.name)
        what = f"the end of version {version}"
        condition = Condition(check_request_id(request.request_id), from_etag(request.etag), what)
        await self._whole(ref, version, await self._record(ref))
        record = await self._ledger.change(
            ref, change.retire(ref, version), condition, done=f"the end of version {version} of model {ref}"
        )
        return pb.RetireVersionResponse(version=await self._whole(ref, version, record))

    async def _record(self, ref: ModelRef) -> AliasRecord:
        record = await self._library.newest_aliases(ref) or EMPTY
        if record.gone:
            raise no_model(ref)
        return record

    async def _whole(self, ref: ModelRef, version: str, record: AliasRecord) -> pb.Version:
        if version in record.deleted:
            raise ModelNotFoundError(f"version {version} of model {ref} was deleted")
        manifest = await self._library.find_manifest(ref, version)
        if manifest is None:
            return await self._registered(ref, version)
        schema = await self._library.read_schema(ref.tenant, manifest.schema)
        return to_version(manifest, state_of(record, version), schema)

    async def _registered(self, ref: ModelRef, version: str) -> pb.Version:
        found = await self._library.find_registration(ref, version)
        if found is None:
            raise ModelNotFoundError(f"model {ref} has no version {version!r}")
        return to_registered(ref, found)
