"""Models on paper: manifests and records as publishing makes them, without artifacts, for tests that move aliases."""

from __future__ import annotations

from collections.abc import Sequence

from registry.change import published
from registry.ledger import Ledger, new_nonce
from registry.manifest import Manifest
from registry.model import LIVE, ModelRef, Runtime
from registry.next_record import Condition


async def publish(
    ledger: Ledger,
    ref: ModelRef,
    version: str,
    *,
    aliases: Sequence[str] = (LIVE,),
    application: str = "",
    labels: dict[str, str] | None = None,
    training: dict[str, str] | None = None,
) -> Manifest:
    """Store a version's manifest, and point aliases at it."""
    draft = Manifest(
        tenant=ref.tenant,
        model=ref.model,
        version=version,
        application=application,
        runtime=Runtime.LIGHTGBM,
        source="a" * 64,
        source_bytes=1,
        artifact=f"{abs(hash((ref, version))):064x}",
        artifact_bytes=1,
        schema="b" * 64,
        resident_bytes=1000,
        predict_us={},
        labels=labels or {},
        training=training or {},
        created_at="2026-01-01T00:00:00Z",
        nonce=new_nonce(),
    )
    manifest = await ledger.library.create_manifest(draft)
    await ledger.change(ref, published(ref, manifest.to_version(), aliases, ""), Condition())
    return manifest
