"""Which models a cluster has, from its etcd and its object storage: what to ask for where nobody wrote a list.

Contract: models with the alias "live" that take numbers alone, in order of their names. A schema is read once for each
tenant that has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from ops.load.spec import LoadModel
from registry.bounded import map_all
from registry.errors import InvalidRequestError
from registry.etcd import Etcd
from registry.keys import Keys, decode_model
from registry.library import Library
from registry.model import LIVE, ModelRef, check_name

_AT_ONCE = 32


class Found(NamedTuple):
    """`left_out`: models that take texts, of which this generator makes none."""

    models: tuple[LoadModel, ...]
    left_out: int


async def discover(etcd: Etcd, keys: Keys, library: Library, tenants: Sequence[str]) -> Found:
    """The models of these tenants, of all where none is named. Raises InvalidRequestError: there are none."""
    for tenant in tenants:
        check_name("tenant", tenant)
    prefixes = [keys.tenant_models_prefix(tenant) for tenant in tenants] or [keys.models_prefix]
    live = [pair for prefix in prefixes for pair in await _live(etcd, keys, prefix)]
    wanted = list(dict.fromkeys(schema for _, schema in live))
    schemas = await map_all(wanted, lambda each: library.read_schema(*each), _AT_ONCE)
    widths = {
        key: 0 if schema.string_columns else len(schema.features) for key, schema in zip(wanted, schemas, strict=True)
    }
    models = tuple(LoadModel(*ref, widths[schema]) for ref, schema in live if widths[schema])
    if not models:
        raise InvalidRequestError(f"{' '.join(tenants) or 'the cluster'} has no live model that takes numbers alone")
    return Found(models, len(live) - len(models))


async def _live(etcd: Etcd, keys: Keys, prefix: bytes) -> list[tuple[ModelRef, tuple[str, str]]]:
    """Each model with the tenant and the digest of its schema."""
    found = []
    async with aclosing(etcd.pages(prefix)) as pages:
        async for page in pages:
            for kv in page:
                ref = keys.model_ref(kv.key)
                try:
                    version = decode_model(kv.value).aliases.get(LIVE)
                except msgspec.DecodeError:
                    continue  # Somebody else's; scorers don't know it either.
                if ref is not None and version is not None:
                    found.append((ref, (version.tenant, version.schema)))
    return found
