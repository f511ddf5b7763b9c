"""Which version a file becomes: numbers and names go to one content each, for ever.

Contract: a version is taken by a registration, which one publisher alone can create; afterwards it is this content's,
whatever becomes of its publisher. So one that died is followed by one with the same content, and by no other. A name
that was asked for is taken after admission, so that a file which is refused doesn't use it up; a number is taken
before, so that its publisher can be asked about it.
"""

from __future__ import annotations

import asyncio

from registry.errors import ConflictError, VersionExistsError
from registry.layout import next_version
from registry.ledger import new_nonce, utc_now
from registry.library import Library
from registry.manifest import AliasRecord, Registration
from registry.model import ModelRef
from registry.next_record import published_version
from registry.offer import Offer

_LOOK_BACK = 8


async def known_version(
    library: Library, ref: ModelRef, offer: Offer, request_id: str, record: AliasRecord, version: str | None
) -> str:
    """The version that this request took before, else the one that is asked for, else "". A request is known among
    the last 32 that were carried out, and the last 8 that took a number.

    Raises:
        ConflictError: the request came to something else.
        VersionExistsError: it took its version for other content, or the version asked for was taken for other.
    """
    made = published_version(record, request_id)
    if made and version not in (None, made):
        raise ConflictError(f"request id {request_id} was used already: version {made}")
    if version or made:
        await _check_taken(library, ref, version or made, offer, request_id if made else "")
        return version or made
    for name in reversed((await library.list_registered(ref))[-_LOOK_BACK:]) if request_id else ():
        found = await library.find_registration(ref, name)
        if found is not None and found.request_id == request_id and name not in record.deleted:
            _check_source(ref, found, offer, request_id)
            return name
    return ""


async def take_number(library: Library, ref: ModelRef, offer: Offer, request_id: str, record: AliasRecord) -> str:
    """Take the next free number."""
    while True:
        published, registered = await asyncio.gather(library.list_versions(ref), library.list_registered(ref))
        wanted = _registration(next_version([*published, *registered, *record.deleted]), offer, request_id)
        if (await library.register(ref, wanted)).nonce == wanted.nonce:
            return wanted.version


async def take_name(library: Library, ref: ModelRef, version: str, offer: Offer, request_id: str) -> None:
    """Take a name, or find it taken for this content. Raises VersionExistsError where it was taken for other."""
    _check_source(ref, await library.register(ref, _registration(version, offer, request_id)), offer, "")


async def _check_taken(library: Library, ref: ModelRef, version: str, offer: Offer, request_id: str) -> None:
    found = await library.find_registration(ref, version)
    if found is not None:
        _check_source(ref, found, offer, request_id)


def _check_source(ref: ModelRef, found: Registration, offer: Offer, request_id: str) -> None:
    if found.source == offer.digest:
        return
    if request_id:
        raise VersionExistsError(
            f"request {request_id} published version {found.version} of model {ref} with other content"
        )
    raise VersionExistsError(
        f"version {found.version} of model {ref} is taken already by other content (sha256 {found.source}); publish "
        "under another version"
    )


def _registration(version: str, offer: Offer, request_id: str) -> Registration:
    return Registration(
        version=version, source=offer.digest, created_at=utc_now(), nonce=new_nonce(), request_id=request_id
    )
