"""The records in object storage and where they lie."""

from __future__ import annotations

import msgspec
import pytest

from registry import layout, manifest
from registry.errors import InvalidRequestError, ModelUnusableError
from registry.manifest import AliasRecord, Manifest
from registry.model import ModelRef, ModelSchema, OutputKind, OutputSchema, Runtime

REF = ModelRef("acme", "fraud")
DIGEST = "ab" + "0" * 62


def _manifest() -> Manifest:
    schema = ModelSchema(("age", "income"), (OutputSchema("value", OutputKind.REGRESSION),))
    return Manifest(
        tenant="acme",
        model="fraud",
        version="7",
        runtime=Runtime.ONNX,
        digest=DIGEST,
        uri=layout.artifact_path(DIGEST),
        artifact_bytes=10,
        resident_bytes=1000,
        schema=schema,
        predict_us={"1": 2.5, "64": 40.0},
        created_at="2026-11-23T23:00:00Z",
        nonce="n1",
        labels={"team": "risk"},
    )


def test_manifest_survives_its_encoding() -> None:
    assert manifest.decode_manifest(manifest.encode(_manifest()), "p") == _manifest()


def test_manifest_tells_a_scorer_what_it_needs() -> None:
    version = _manifest().to_version()
    assert (version.version, version.digest, version.runtime) == ("7", DIGEST, Runtime.ONNX)
    assert (version.uri, version.artifact_bytes, version.resident_bytes) == (_manifest().uri, 10, 1000)
    assert version.schema == _manifest().schema


def test_alias_record_survives_its_encoding() -> None:
    record = AliasRecord(revision=3, previous=2, aliases={"live": "7"}, created_at="2026-11-23T23:00:00Z", nonce="n")
    assert manifest.decode_aliases(manifest.encode(record), "p") == record


def test_fields_of_a_newer_writer_are_ignored() -> None:
    fields = msgspec.json.decode(manifest.encode(_manifest())) | {"colour": "red"}
    assert manifest.decode_manifest(msgspec.json.encode(fields), "p") == _manifest()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"revision": "x"}', b"\xff\xfe"])
def test_damaged_record_is_refused_and_named(data: bytes) -> None:
    with pytest.raises(ModelUnusableError, match=r"tenants/acme/x\.json"):
        manifest.decode_aliases(data, "tenants/acme/x.json")


def test_unknown_format_is_refused() -> None:
    data = manifest.encode(msgspec.structs.replace(_manifest(), format=2))
    with pytest.raises(ModelUnusableError, match="format 2"):
        manifest.decode_manifest(data, "p")


def test_paths() -> None:
    assert layout.artifact_path(DIGEST) == f"artifacts/sha256/ab/{DIGEST}"
    assert layout.manifest_path(REF, "1.2") == "tenants/acme/models/fraud/versions/1.2.json"
    assert layout.alias_record_path(REF, 12) == "tenants/acme/models/fraud/aliases/00000000000000000012.json"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a#1", "é", "x" * 129])
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        layout.manifest_path(REF, name)
    with pytest.raises(InvalidRequestError):
        layout.aliases_folder(ModelRef("acme", name))


@pytest.mark.parametrize("digest", ["", "AB" + "0" * 62, "0" * 63, "../" + "0" * 61])
def test_only_a_sha256_names_an_artifact(digest: str) -> None:
    with pytest.raises(InvalidRequestError):
        layout.artifact_path(digest)


def test_names_turn_back_into_what_they_stand_for() -> None:
    assert layout.version_of("1.2.json") == "1.2"
    assert layout.version_of("1.2.json#1") is None
    assert layout.revision_of("00000000000000000012.json") == 12
    assert [layout.revision_of(name) for name in ("12.json", "x" * 20 + ".json", "0" * 20)] == [None, None, None]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], "1"),
        (["1", "2", "10"], "11"),
        (["2024-01-01", "v3", "007"], "1"),
        (["9" * 128, "3"], "4"),
    ],
)
def test_next_version_counts_plain_numbers_only(versions: list[str], expected: str) -> None:
    assert layout.next_version(versions) == expected


def test_versions_sort_by_their_numbers() -> None:
    versions = ["10", "9", "v10", "v9", "1.10", "1.9"]
    assert sorted(versions, key=layout.version_order) == ["1.9", "1.10", "9", "10", "v9", "v10"]
