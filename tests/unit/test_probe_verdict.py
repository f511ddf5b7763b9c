"""Answers that a file which has taken over an engine could write."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from registry.errors import ArtifactRejectedError
from registry.manifest import GoldenRows
from registry.model import ModelSchema, OutputKind, OutputSchema, Runtime
from registry.offer import Offer
from registry.probe_verdict import Ended, judge
from registry.probe_wire import (
    BY_ITSELF,
    FRAME,
    MOST_FEATURES,
    MOST_GOLDEN_ROWS,
    MOST_REASON,
    MOST_TOLD_BYTES,
    Findings,
    Refused,
    Rewritten,
    frame,
    least_resident_bytes,
    most_memory_bytes,
)

OUTPUT = OutputSchema("y", OutputKind.REGRESSION)
SCHEMA = ModelSchema(("x",), (OUTPUT,))
HONEST = Findings(
    schema=SCHEMA,
    resident_bytes=5_000,
    predict_us={"1": 1.0, "64": 2.0},
    runtime_version="4.7.0",
    golden=GoldenRows(((1.0,),), {"y": (2.0,)}),
    rewritten=True,
)


def judged(answer: bytes, data: bytes = b"model") -> Any:
    return judge(Offer(data, "d", Runtime.LIGHTGBM), Ended(BY_ITSELF, 0, answer), 30.0)


def with_findings(artifact: bytes = b"slim", **changes: Any) -> bytes:
    return frame(Rewritten(artifact)) + frame(msgspec.structs.replace(HONEST, **changes))


def raw(body: bytes) -> bytes:
    return FRAME.pack(len(body)) + body


def wide(names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "schema": ModelSchema(names, (OUTPUT,)),
        "golden": GoldenRows((tuple(1.0 for _ in names),), {"y": (2.0,)}),
    }


def long(rows: int) -> dict[str, Any]:
    return {"golden": GoldenRows(((1.0,),) * rows, {"y": (2.0,) * rows})}


def test_an_honest_answer_is_taken() -> None:
    for artifact in (b"", b"slim", bytes(10_000), b"\xc1\x00"):
        admitted = judged(with_findings(artifact))
        assert admitted.artifact == artifact
        assert admitted.schema == SCHEMA
    assert judged(with_findings(**wide(tuple(map(str, range(MOST_FEATURES)))))).resident_bytes == 5_000
    assert judged(with_findings(**long(MOST_GOLDEN_ROWS))).runtime_version == "4.7.0"


def test_all_that_is_told_is_kept() -> None:
    schema = ModelSchema(("x", "z"), (OUTPUT,), ("t",), {"z": "category"}, {"z": ("a", "b")})
    golden = GoldenRows(((1.0, None), (None, 2.5)), {"y": (None, 2.0)}, {"t": ("a", "\n")}, 0.5)
    admitted = judged(with_findings(schema=schema, golden=golden))
    assert (admitted.schema, admitted.golden) == (schema, golden)
    assert (admitted.resident_bytes, admitted.predict_us) == (HONEST.resident_bytes, HONEST.predict_us)


@pytest.mark.parametrize("artifact_bytes", [10, 30_000_000])
def test_a_model_cannot_be_smaller_than_its_file_allows(artifact_bytes: int) -> None:
    least, data = least_resident_bytes(artifact_bytes), bytes(artifact_bytes)
    assert judged(with_findings(data, resident_bytes=least), data).resident_bytes == least
    for size in (1, least - 1):
        with pytest.raises(ArtifactRejectedError, match="can't be true: resident_bytes"):
            judged(with_findings(data, resident_bytes=size), data)


def test_a_model_cannot_be_larger_than_the_memory_that_it_had() -> None:
    most = most_memory_bytes(5)
    assert judged(with_findings(resident_bytes=most)).resident_bytes == most
    with pytest.raises(ArtifactRejectedError, match="can't be true: resident_bytes"):
        judged(with_findings(resident_bytes=most + 1))
    assert most_memory_bytes(1 << 40) == 4 << 30


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_a_deep_answer_is_refused(depth: int) -> None:
    body = b"\x82" + b"".join(map(msgspec.msgpack.encode, ("type", "Findings", "other"))) + b"\x91" * depth + b"\xc0"
    for answer in (raw(body), frame(Rewritten(b"slim")) + raw(body)):
        with pytest.raises(ArtifactRejectedError, match="makes no sense"):
            judged(answer)


def test_a_long_answer_is_refused_unread() -> None:
    """It would be taken were it read."""
    findings = msgspec.msgpack.encode(HONEST)
    body = b"\x89" + findings[1:] + msgspec.msgpack.encode("other") + msgspec.msgpack.encode(bytes(MOST_TOLD_BYTES))
    assert findings[0] == 0x88
    with pytest.raises(ArtifactRejectedError, match="makes no sense"):
        judged(frame(Rewritten(b"slim")) + raw(body))
    assert judged(frame(Rewritten(b"slim")) + raw(body[:1] + findings[1:] + b"\xa5other\xc0")).schema == SCHEMA


@pytest.mark.parametrize(
    "answer",
    [
        with_findings() + frame(Refused("")),
        frame(Rewritten(b"")) * 2,
        frame(Rewritten(b"")) * 3,
        frame(Refused("a")) * 2,
        frame(HONEST) + frame(Rewritten(b"")),
        raw(b"") * 100_000,
        raw(b""),
        FRAME.pack(1),
        FRAME.pack(1)[:-1],
        with_findings() + b"x",
        raw(msgspec.msgpack.encode({"type": "Rewritten", "artifact": b"x"})),
    ],
)
def test_what_is_not_one_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(ArtifactRejectedError, match="makes no sense"):
        judged(answer)


@pytest.mark.parametrize("answer", [b"", frame(Rewritten(b"slim")), frame(HONEST)])
def test_half_an_answer_is_no_result(answer: bytes) -> None:
    with pytest.raises(ArtifactRejectedError, match="no result"):
        judged(answer)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (wide(("\x1b[31m",)), "schema"),
        (wide(("a\n",)), "schema"),
        (wide(("\x85",)), "schema"),
        ({"schema": ModelSchema((), (OUTPUT,), string_columns=("\x00",))}, "schema"),
        ({"schema": ModelSchema(("x",), (OutputSchema("y\r", OutputKind.REGRESSION),))}, "schema"),
        ({"schema": ModelSchema(("x",), (OutputSchema("y", OutputKind.MULTI_OUTPUT, ("a", "\x7f")),))}, "schema"),
        ({"runtime_version": "4\n"}, "runtime_version"),
    ],
)
def test_what_no_model_has_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ArtifactRejectedError, match=f"can't be true: {told}$"):
        judged(with_findings(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        wide(tuple(map(str, range(MOST_FEATURES + 1)))),
        {"schema": ModelSchema((), (OUTPUT,), tuple(map(str, range(MOST_FEATURES + 1))))},
        {"schema": ModelSchema(("x",), (OUTPUT,), dtypes=dict.fromkeys(map(str, range(100_000)), "int"))},
        {"predict_us": dict.fromkeys(map(str, range(100_000)), 1.0)},
        {"golden": GoldenRows(((None,) * 100_001,), {})},
        long(MOST_GOLDEN_ROWS + 1),
    ],
)
def test_more_than_any_model_has_is_refused_unread(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactRejectedError, match="makes no sense") as refusal:
        judged(with_findings(**changes))
    reason = refusal.value.__cause__
    assert reason is not None
    assert "of length <=" in str(reason.__cause__)


def test_names_of_every_language_are_taken() -> None:
    names = ("größe", "年齢", "a b", "😀")
    assert judged(with_findings(**wide(names))).schema.features == names


def test_a_reason_is_fit_to_be_shown() -> None:
    with pytest.raises(ArtifactRejectedError) as refusal:
        judged(frame(Refused("one\x1b[31m\rtwo\nthree" + "x" * 1_000_000)))
    assert refusal.value.message.startswith("one?[31m?two\nthreex")
    assert len(refusal.value.message) == MOST_REASON + 3
