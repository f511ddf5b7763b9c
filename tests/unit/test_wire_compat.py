"""What a router splices unread must be what callers and scorers write: the two proto files describe the same bytes."""

from __future__ import annotations

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from scoremesh.forwarding.v1 import forwarding_pb2 as raw
from scoremesh.scoring.v1 import scoring_pb2 as pb

_U32 = st.integers(0, 2**32 - 1)
_requests = st.builds(
    pb.ScoreRequest,
    tenant=st.text(max_size=20),
    model=st.text(max_size=20),
    row_count=_U32,
    version=st.one_of(st.none(), st.text(max_size=9)),
    dense_float=st.lists(st.floats(width=32, allow_nan=False), max_size=5),
    dense_double=st.lists(st.floats(allow_nan=False), max_size=5),
    string_columns=st.lists(
        st.builds(pb.StringColumn, name=st.text(max_size=9), codes=st.lists(_U32, max_size=4)), max_size=3
    ),
    request_id=st.text(max_size=30),
)
# An empty message and no message are the same bytes, so a response must hold something: a scorer always fills this one.
_responses = st.builds(
    pb.ScoreResponse,
    model_version=st.text(min_size=1, max_size=9),
    outputs=st.lists(
        st.builds(
            pb.Output,
            name=st.text(max_size=9),
            regression=st.builds(pb.Regression, values=st.lists(st.floats(allow_nan=False), max_size=4)),
        ),
        max_size=3,
    ),
    request_id=st.text(max_size=30),
)


@given(_requests)
def test_a_head_reads_where_a_request_goes(request: pb.ScoreRequest) -> None:
    head = raw.ScoreRequestHead.FromString(request.SerializeToString())
    assert (head.tenant, head.model) == (request.tenant, request.model)


@given(st.lists(_requests, max_size=5), st.lists(_U32, max_size=5))
def test_batches(items: list[pb.ScoreRequest], timeout_ms: list[int]) -> None:
    typed = pb.StreamScoreBatchRequest(items=items, timeout_ms=timeout_ms)
    batch = raw.RawBatch.FromString(typed.SerializeToString())
    assert [pb.ScoreRequest.FromString(item) for item in batch.items] == items
    assert list(batch.timeout_ms) == timeout_ms
    assert pb.StreamScoreBatchRequest.FromString(batch.SerializeToString()) == typed
    whole = pb.ScoreBatchRequest(items=items)
    assert pb.ScoreBatchRequest.FromString(raw.RawBatch(items=batch.items).SerializeToString()) == whole


_results: st.SearchStrategy[dict[str, object]] = st.builds(
    dict,
    index=_U32,
    code=st.integers(0, 16),
    message=st.text(max_size=20),
    reason=st.text(max_size=20),
    retry_after_ms=_U32,
)


@given(st.lists(st.tuples(_results, _responses), max_size=5))
def test_results(results: list[tuple[dict[str, object], pb.ScoreResponse]]) -> None:
    spliced = raw.RawResults(
        results=[
            raw.RawResult(**fields, response=response.SerializeToString())  # type: ignore[arg-type]
            for fields, response in results
        ]
    )
    wanted = [pb.ScoreResult(**fields, response=response) for fields, response in results]  # type: ignore[arg-type]
    for kind in (pb.ScoreBatchResponse, pb.StreamScoreBatchResponse):
        assert list(kind.FromString(spliced.SerializeToString()).results) == wanted
    typed = pb.StreamScoreBatchResponse(results=wanted)
    read = raw.RawResults.FromString(typed.SerializeToString()).results
    assert [pb.ScoreResponse.FromString(result.response) for result in read] == [response for _, response in results]


def test_numbers_and_types_of_shared_fields_are_equal() -> None:
    pairs: list[tuple[type[Message], type[Message]]] = [
        (raw.ScoreRequestHead, pb.ScoreRequest),
        (raw.RawBatch, pb.StreamScoreBatchRequest),
        (raw.RawBatch, pb.ScoreBatchRequest),
        (raw.RawResults, pb.ScoreBatchResponse),
        (raw.RawResults, pb.StreamScoreBatchResponse),
        (raw.RawResult, pb.ScoreResult),
    ]
    for spliced, typed in pairs:
        ours = {field.name: (field.number, field.is_repeated) for field in spliced.DESCRIPTOR.fields}
        theirs = {field.name: (field.number, field.is_repeated) for field in typed.DESCRIPTOR.fields}
        shared = ours.keys() & theirs.keys()
        assert shared
        assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    assert {f.name for f in raw.RawResult.DESCRIPTOR.fields} == {f.name for f in pb.ScoreResult.DESCRIPTOR.fields}
