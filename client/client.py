"""The clients: `Client` on grpc for threads, `AsyncClient` on grpc.aio for asyncio, with the same methods.

Contract: a wrong argument raises ValueError or TypeError before anything is sent; any other failure is a `ScoreError`.
Calls are free of side effects and are retried on UNAVAILABLE, on another router where there is one, inside their
deadline. A client is one channel: share it between threads (or tasks), make it after a fork, close it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import grpc
from numpy.typing import ArrayLike

from client.channel import channel_options, channel_target
from client.codec import MalformedResponseError, ScoreItem, decode_response, encode_request
from client.errors import ScoreError, error_of_call, error_of_result, malformed
from client.scores import Scores
from scoremesh.scoring.v1 import scoring_pb2 as pb

_SCORE = "/scoremesh.scoring.v1.ScoringService/Score"
_SCORE_BATCH = "/scoremesh.scoring.v1.ScoringService/ScoreBatch"


class Client:
    """Scores from any thread.

    `addresses`: one router, one DNS name of all of them, or several "ip:port"; calls go round them.
    `credentials`: TLS, with call credentials where the routers ask for a token; None means plain text.
    `server_name`: the name in the routers' certificate; needed where it is not the host of the one address.

    Raises:
        ValueError: several addresses that aren't all IPv4 or all IPv6, or with TLS but without a server name.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str | None = None,
    ) -> None:
        target = channel_target(addresses)
        options = channel_options(addresses, secure=credentials is not None, server_name=server_name)
        self._channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._score = self._channel.unary_unary(_SCORE, pb.ScoreRequest.SerializeToString, pb.ScoreResponse.FromString)
        self._score_batch = self._channel.unary_unary(
            _SCORE_BATCH, pb.ScoreBatchRequest.SerializeToString, pb.ScoreBatchResponse.FromString
        )
        self._closed = False

    def score(
        self,
        tenant: str,
        model: str,
        rows: ArrayLike | None,
        *,
        version: str | None = None,
        alias: str | None = None,
        timeout_s: float = 1.0,
        string_columns: Mapping[str, Sequence[str]] | None = None,
        request_id: str = "",
        outputs: Sequence[str] = (),
        entity_key: str = "",
        contributions: bool = False,
    ) -> Scores:
        """Score the rows of one request; `ScoreItem` describes the arguments. `timeout_s` covers all attempts, and the
        load of a model that isn't in memory.

        Raises:
            ScoreError: the request was not scored.
            ValueError, TypeError: the arguments contradict each other, or aren't numbers and strings.
        """
        item = ScoreItem(
            tenant, model, rows, version, alias, string_columns, request_id, outputs, entity_key, contributions
        )
        request = encode_request(item)
        _check_open(self._closed)
        try:
            response = self._score(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        return _scores(request, response)

    def score_batch(self, items: Sequence[ScoreItem], *, timeout_s: float = 1.0) -> list[Scores | ScoreError]:
        """Score up to 1024 independent items in one call: one result or error an item, in their order. The error of an
        item is returned, not raised, and an item is not retried by itself.

        Raises:
            ScoreError: the call failed as a whole.
            ValueError, TypeError: as in `score`, for any item.
        """
        request = pb.ScoreBatchRequest(items=[encode_request(item) for item in items])
        _check_open(self._closed)
        try:
            response = self._score_batch(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        return _batch_results(request, response)

    def close(self) -> None:
        """Close the connections. Calls that still wait fail with CANCELLED. Closing twice is fine."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """Scores from the event loop that it was made in. Arguments, results and errors as in `Client`; cancelling the task
    cancels the call.

    Raises:
        RuntimeError: made where no event loop runs.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str | None = None,
    ) -> None:
        asyncio.get_running_loop()  # Without one, grpc.aio would quietly bind the channel to a loop that never runs.
        target = channel_target(addresses)
        options = channel_options(addresses, secure=credentials is not None, server_name=server_name)
        self._channel = (
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
        )
        self._score = self._channel.unary_unary(_SCORE, pb.ScoreRequest.SerializeToString, pb.ScoreResponse.FromString)
        self._score_batch = self._channel.unary_unary(
            _SCORE_BATCH, pb.ScoreBatchRequest.SerializeToString, pb.ScoreBatchResponse.FromString
        )
        self._closed = False

    async def score(
        self,
        tenant: str,
        model: str,
        rows: ArrayLike | None,
        *,
        version: str | None = None,
        alias: str | None = None,
        timeout_s: float = 1.0,
        string_columns: Mapping[str, Sequence[str]] | None = None,
        request_id: str = "",
        outputs: Sequence[str] = (),
        entity_key: str = "",
        contributions: bool = False,
    ) -> Scores:
        """Score the rows of one request. See `Client.score`."""
        item = ScoreItem(
            tenant, model, rows, version, alias, string_columns, request_id, outputs, entity_key, contributions
        )
        request = encode_request(item)
        _check_open(self._closed)
        try:
            response = await self._score(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        return _scores(request, response)

    async def score_batch(self, items: Sequence[ScoreItem], *, timeout_s: float = 1.0) -> list[Scores | ScoreError]:
        """Score up to 1024 independent items in one call. See `Client.score_batch`."""
        request = pb.ScoreBatchRequest(items=[encode_request(item) for item in items])
        _check_open(self._closed)
        try:
            response = await self._score_batch(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of_call(error) from error
        return _batch_results(request, response)

    async def aclose(self) -> None:
        """Close the connections. Calls that still wait are cancelled. Closing twice is fine."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _check_open(closed: bool) -> None:
    if closed:
        raise ScoreError(grpc.StatusCode.CANCELLED, "CLIENT_CLOSED", "this client is closed")


def _scores(request: pb.ScoreRequest, response: pb.ScoreResponse) -> Scores:
    try:
        return decode_response(response, request.row_count)
    except MalformedResponseError as error:
        raise malformed(str(error)) from error


def _batch_results(request: pb.ScoreBatchRequest, response: pb.ScoreBatchResponse) -> list[Scores | ScoreError]:
    """One result an item, in the items' order; an item without an answer gets an error."""
    answers = {result.index: result for result in response.results}
    return [_batch_result(item, answers.get(index)) for index, item in enumerate(request.items)]


def _batch_result(item: pb.ScoreRequest, result: pb.ScoreResult | None) -> Scores | ScoreError:
    if result is None:
        return malformed("the batch came back without an answer for this item")
    if result.code != 0:
        return error_of_result(result)
    try:
        return _scores(item, result.response)
    except ScoreError as error:
        return error
