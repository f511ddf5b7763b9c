"""Publishing: a file becomes an immutable version, and aliases come to point at it.

Contract: the steps are a number, artifact, source, schema, manifest, model record (all in object storage, each created
once and never replaced), then the mirror of the newest model record in etcd. Nobody can score a step before all that it
points at is there, so a publisher that dies at any point leaves nothing half visible, and running it again finishes the
work. Any number of publishers may run at once: a version number and a record's revision each go to one of them, and
etcd only ever moves to a higher revision, so that a slow publisher can't undo what a later one did. An alias is pointed
at a version only while the contract and the application are those that the version was checked against.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from registry import contract, numbering
from registry.alias_moves import AliasMoves
from registry.change import UNCHECKED, Checked, UncheckedError
from registry.errors import ConflictError, InvalidRequestError, NotFoundError, VersionExistsError
from registry.layout import artifact_path, schema_path
from registry.ledger import Ledger, new_nonce, utc_now
from registry.library import Library
from registry.manifest import AliasRecord, Manifest, encode_schema, schema_digest
from registry.model import LIVE, ApplicationRecord, ModelRef, ModelSchema, Runtime, check_name
from registry.next_record import MOST_ALIASES, Condition
from registry.offer import NO_FACTS, Admit, Admitted, Facts, Offer, read_offer, sha256, split_digest
from registry.transform_tables import split_tables
from registry.transforms import encode_spec

SIZE_LIMIT_BYTES = 256 << 20


class Publisher:
    """Publishes what `admit` admits. `moves` points the aliases. `published_by`: noted in the manifests. Holds no task
    of its own.
    """

    def __init__(
        self,
        ledger: Ledger,
        moves: AliasMoves,
        admit: Admit,
        *,
        published_by: str = "",
        size_limit_bytes: int = SIZE_LIMIT_BYTES,
    ) -> None:
        self.ledger = ledger
        self.library: Library = ledger.library
        self._moves = moves
        self._admit = admit
        self._published_by = published_by
        self._size_limit_bytes = size_limit_bytes

    async def publish(
        self,
        path: Path,
        ref: ModelRef,
        *,
        version: str | None = None,
        runtime: Runtime | None = None,
        aliases: Sequence[str] = (LIVE,),
        facts: Facts = NO_FACTS,
        request_id: str = "",
    ) -> Manifest:
        """Publish a model file and point `aliases` at it. Without `version` it gets the next free number. Doing the
        same again with the same `version` or `request_id` succeeds and returns the manifest of the first time; see
        `registry.numbering.known_version` for how long a request is known. Without `runtime` the file tells it.

        Raises:
            ArtifactRejectedError: the file can't be read, is too large, or is no model that a scorer may load.
            ContractBrokenError: its schema breaks the model's or the application's contract; also one that it was given
                while this was under way, and then the version is published but no alias was moved.
            VersionExistsError: the version, or the request id, is published with other content.
            NotFoundError: there is no such application.
            ConflictError: the tenant is being deleted, or the request id was used for something else.
            NotPreparedError: it is published, but scorers couldn't load it, so no alias was moved.
            InvalidRequestError: a name that can't be one, or too many aliases.
            StoreUnavailableError: run it again.
            EtcdUnavailableError: it is published, but scorers don't know yet; `scoremesh rebuild` tells them.
        """
        _check_names(ref, version, aliases)
        offer = await read_offer(path, runtime, self._size_limit_bytes, facts)
        record = await self.ledger.record(ref)
        known = await numbering.known_version(self.library, ref, offer, request_id, record, version)
        found = await self.library.find_manifest(ref, known) if known else None
        checked = _Checked(facts.application or record.application, UNCHECKED)
        if found is None:
            await self._application(facts.application, record)  # Refused before a number is taken.
            number = known or await numbering.take_number(self.library, ref, offer, request_id, record)
            _check_not_deleted(ref, number, record)
            admitted = await self._admit(offer)
            record = await self.ledger.record(ref)  # Trying a model takes time: what holds now is its contract.
            checked = await self._check(ref, record, facts, admitted.schema)
            if version is not None:
                await numbering.take_name(self.library, ref, version, offer, request_id)
            found = await self._create(ref, number, offer, admitted, checked.application, facts, request_id)
        manifest = _same(found, offer)
        await self._tell(manifest, aliases, facts, request_id, record, checked)
        return manifest

    async def _tell(
        self,
        manifest: Manifest,
        aliases: Sequence[str],
        facts: Facts,
        request_id: str,
        record: AliasRecord,
        checked: _Checked,
    ) -> None:
        """Point the aliases, while the record is as it was when the version was checked; else check it again."""
        ref, version, condition = manifest.ref, manifest.to_version(), Condition(request_id)
        while True:
            told = {"application": checked.application}
            if facts.allow_breaking or not record.contract:  # The first version of a model is its contract.
                told["contract"] = manifest.schema
            try:
                await self._moves.publish(ref, version, aliases, condition, told, record, checked.record)
            except UncheckedError:
                record = await self.ledger.record(ref)
                schema = await self.library.read_schema(ref.tenant, manifest.schema)
                checked = await self._check(ref, record, facts, schema)
            else:
                return

    async def _create(
        self,
        ref: ModelRef,
        version: str,
        offer: Offer,
        admitted: Admitted,
        application: str,
        facts: Facts,
        request_id: str,
    ) -> Manifest:
        """Store all that a version is."""
        stored = await self._store(ref.tenant, offer, admitted)
        draft = Manifest(
            tenant=ref.tenant,
            model=ref.model,
            version=version,
            application=application,
            runtime=offer.runtime,
            runtime_version=admitted.runtime_version,
            source=offer.digest,
            source_bytes=len(offer.data),
            artifact=stored.artifact,
            artifact_bytes=len(admitted.artifact),
            annotated=stored.annotated,
            annotated_bytes=len(admitted.annotated),
            schema=stored.schema,
            resident_bytes=admitted.resident_bytes,
            predict_us=admitted.predict_us,
            golden=admitted.golden,
            transforms=msgspec.Raw(stored.transforms or b"null"),
            transforms_digest=sha256(stored.transforms) if stored.transforms else "",
            training=facts.training,
            labels=facts.labels,
            signature=facts.signature,
            created_at=utc_now(),
            nonce=new_nonce(),
            published_by=self._published_by,
            request_id=request_id,
        )
        found = await self.library.create_manifest(draft)
        await self._keep(stored.shared)
        return found

    async def _store(self, tenant: str, offer: Offer, admitted: Admitted) -> _Stored:
        """Store the bytes that scorers load, those that were offered, the schema, the transforms with their tables."""
        artifact = offer.digest if admitted.artifact == offer.data else sha256(admitted.artifact)
        annotated = sha256(admitted.annotated) if admitted.annotated else ""
        schema = schema_digest(admitted.schema)
        objects = {
            artifact_path(tenant, offer.digest): offer.data,
            artifact_path(tenant, artifact): admitted.artifact,
            schema_path(tenant, schema): encode_schema(admitted.schema),
        }
        if annotated:
            objects[artifact_path(tenant, annotated)] = admitted.annotated
        transforms = b""
        if offer.transforms is not None:
            split, tables = split_tables(offer.transforms)
            transforms = encode_spec(split)
            named = tables | {sha256(transforms): transforms}
            objects |= {artifact_path(tenant, digest): data for digest, data in named.items()}
        created = await asyncio.gather(*(self.library.store.create(path, data) for path, data in objects.items()))
        shared = {path: objects[path] for path, new in zip(objects, created, strict=True) if not new}
        return _Stored(artifact, annotated, schema, transforms, shared)

    async def _keep(self, objects: Mapping[str, bytes]) -> None:
        """Store again what was there already and went meanwhile, by the deletion of a version that needed it too. Done
        after the manifest: a later deletion sees that we need it (see `registry.deletion_uses`).
        """
        for path, data in objects.items():
            if not await self.library.store.exists(path):
                await self.library.store.create(path, data)

    async def _application(self, named: str, record: AliasRecord) -> ApplicationRecord | None:
        """The application that a new version is of: the one that its publisher names, else the model's, unless that was
        deleted. Raises NotFoundError where there is none of the name.
        """
        application = named or record.application
        found = await self.library.newest_application(application) if application else None
        if found is not None and not found.deleted:
            return found
        if named:
            raise NotFoundError(f"there is no application {named!r}")
        return None

    async def _check(self, ref: ModelRef, record: AliasRecord, facts: Facts, schema: ModelSchema) -> _Checked:
        """Check a schema against what holds."""
        application = await self._application(facts.application, record)
        if not facts.allow_breaking:
            if record.contract and record.contract != schema_digest(schema):
                contract.check(f"model {ref}", await self.library.read_schema(ref.tenant, record.contract), schema)
            if application is not None and application.contract is not None:
                contract.check(f"application {application.application}", application.contract, schema)
        name = application.application if application is not None else ""
        return _Checked(name, Checked(record.contract, record.application))


class _Checked(NamedTuple):
    """What a version was checked against. `application`: what it is of, "" for none."""

    application: str
    record: Checked


class _Stored(NamedTuple):
    """Digests of what scorers load, of that with training notes ("" for none), and of its schema; `transforms`: their
    JSON, empty where there are none; `shared`: the bytes, by path, of what was there already.
    """

    artifact: str
    annotated: str
    schema: str
    transforms: bytes
    shared: dict[str, bytes]


def _check_not_deleted(ref: ModelRef, version: str, record: AliasRecord) -> None:
    if version in record.deleted:
        raise ConflictError(f"version {version} of model {ref} was deleted; its name is not used again")


def _check_names(ref: ModelRef, version: str | None, aliases: Sequence[str]) -> None:
    check_name("tenant", ref.tenant)
    check_name("model", ref.model)
    if version is not None:
        check_name("version", version)
    if isinstance(aliases, str):
        raise InvalidRequestError("aliases must be several names, not one string")
    if len({*aliases}) > MOST_ALIASES:
        raise InvalidRequestError(f"a model can't have more than {MOST_ALIASES} aliases")
    for alias in aliases:
        check_name("alias", alias)


def _same(found: Manifest, offer: Offer) -> Manifest:
    if (found.source, found.runtime, found.transforms_digest) == (offer.digest, offer.runtime, split_digest(offer)):
        return found
    raise VersionExistsError(
        f"version {found.version} of model {found.ref} is published already with other content "
        f"({found.runtime.value}, sha256 {found.source}); publish under another version"
    )
