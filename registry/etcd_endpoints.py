"""The connections to the nodes of an etcd cluster: one channel a node, calls that move on to the next node on failure,
and the login token.

Invariants: a request that etcd may have applied already is repeated only for a caller that says so by reading
`Answer.doubtful`; every retry waits first (jittered, doubling), and none begins after `retry_s`. One channel a node and
not gRPC's round_robin over all, because round_robin goes on choosing a node that is stopped but still connected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from registry.errors import (
    EtcdAuthError,
    EtcdHistoryGoneError,
    EtcdLeaseLostError,
    EtcdRefusedError,
    EtcdUnavailableError,
    InvalidRequestError,
    ScoreMeshError,
)
from registry.etcd_backoff import Backoff
from registry.etcd_faults import Fault, classify, explain
from registry.etcd_records import TlsFiles
from scoremesh.etcd.v1 import etcd_pb2 as pb

A = TypeVar("A", bound=Message)
Metadata = tuple[tuple[str, str], ...]

# Pings not faster than every 5 s: etcd closes the connection of a client that pings more often. ping_timeout is that of
# the pings by which gRPC sizes its windows: one that is never answered keeps ours back, by default for a minute.
# min_reconnect_backoff is also the shortest time that gRPC gives a connection attempt, TLS included.
_OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 64 << 20),
]


class Method(NamedTuple, Generic[A]):
    """A call of etcd's API: its path, and the message that answers it."""

    path: str
    answer: type[A]


class Answer(NamedTuple, Generic[A]):
    """What a call gave. `doubtful`: an earlier try failed in such a way that it may have been applied too."""

    message: A
    doubtful: bool


RANGE = Method("/etcdserverpb.KV/Range", pb.RangeResponse)
PUT = Method("/etcdserverpb.KV/Put", pb.PutResponse)
DELETE_RANGE = Method("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", pb.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", pb.CompactionResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", pb.WatchResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse)
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeResponse)
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse)
LEASE_TIME_TO_LIVE = Method("/etcdserverpb.Lease/LeaseTimeToLive", pb.LeaseTimeToLiveResponse)
STATUS = Method("/etcdserverpb.Maintenance/Status", pb.StatusResponse)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateResponse)


class Endpoint:
    """One node: its address and the channel to it."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self.channel = (
            grpc.aio.secure_channel(address, credentials, _OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(address, _OPTIONS)
        )
        self._unary: dict[str, Any] = {}

    def unary(self, method: Method[A]) -> Callable[..., Any]:
        """The callable for a unary method, made once."""
        if method.path not in self._unary:
            self._unary[method.path] = self.channel.unary_unary(
                method.path, request_serializer=_serialize, response_deserializer=method.answer.FromString
            )
        return self._unary[method.path]  # type: ignore[no-any-return]

    def stream(self, method: Method[A], metadata: Metadata) -> grpc.aio.StreamStreamCall[Any, A]:
        """Begin a call that streams both ways."""
        return self.channel.stream_stream(
            method.path, request_serializer=_serialize, response_deserializer=method.answer.FromString
        )(metadata=metadata)


class Endpoints:
    """The nodes of one cluster, the one in use, and the login. Build it inside a running event loop."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        user: str,
        password: str,
        tls: TlsFiles | None,
        timeout_s: float,
        retry_s: float,
    ) -> None:
        if not addresses:
            raise InvalidRequestError("no etcd endpoint is given")
        credentials = _credentials(tls) if tls else None
        self._all = [Endpoint(address, credentials) for address in addresses]
        self._current = 0
        self._user, self._password = user, password
        self._token: str | None = None
        self._login: asyncio.Task[None] | None = None
        self._timeout_s, self._retry_s = timeout_s, retry_s

    @property
    def current(self) -> Endpoint:
        """The node that calls go to now."""
        return self._all[self._current]

    @property
    def has_user(self) -> bool:
        """Whether there is somebody to log in as."""
        return bool(self._user)

    def after(self, endpoint: Endpoint) -> Endpoint:
        """The next node, round and round."""
        return self._all[(self._all.index(endpoint) + 1) % len(self._all)]

    async def call(self, method: Method[A], request: Message) -> Answer[A]:
        """Call and, while it can help, call again elsewhere.

        Raises:
            EtcdUnavailableError: no node answered within `retry_s`; a write may have been applied or not.
            EtcdAuthError, EtcdLeaseLostError, EtcdHistoryGoneError, EtcdRefusedError: etcd said no.
        """
        return await self._call(method, request, with_token=True)

    async def metadata(self) -> Metadata:
        """What a call carries: the login token. Callers at the same time share one login.

        Raises:
            EtcdUnavailableError, EtcdAuthError: there is no token, and none can be had.
        """
        if self.has_user and self._token is None:
            if self._login is None:
                self._login = asyncio.create_task(self._log_in())
                # Looked at here, because each of the callers may be cancelled before it could.
                self._login.add_done_callback(lambda login: login.cancelled() or login.exception())
            # Shielded: a caller that is cancelled must not take the login away from the others.
            await asyncio.shield(self._login)
        return (("token", self._token),) if self._token else ()

    def forget_token(self, stale: str | None) -> None:
        """Log in before the next call, unless `stale` has been replaced already."""
        if self._token == stale:
            self._token = None

    @property
    def token(self) -> str | None:
        """The token in use, to be named as stale in `forget_token`."""
        return self._token

    async def aclose(self) -> None:
        """Close all channels. Calls that are under way end as cancelled."""
        if self._login is not None:
            self._login.cancel()
        await asyncio.gather(*(endpoint.channel.close() for endpoint in self._all))

    async def _call(self, method: Method[A], request: Message, *, with_token: bool) -> Answer[A]:
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + self._retry_s
        backoff, doubtful = Backoff(), False
        while (left_s := give_up_at - clock()) > 0:
            metadata = await self.metadata() if with_token else ()
            endpoint, token = self.current, self._token
            try:
                answer = endpoint.unary(method)(request, timeout=min(self._timeout_s, left_s), metadata=metadata)
                return Answer(await answer, doubtful)
            except grpc.aio.AioRpcError as error:
                fault = classify(error.code(), error.details() or "")
                doubtful |= fault is Fault.DOUBTFUL
                if fault is Fault.STALE_TOKEN and with_token and self.has_user:
                    self.forget_token(token)
                elif fault in (Fault.DOUBTFUL, Fault.NOT_SENT):
                    self._move_on(endpoint)
                else:
                    raise self._refusal(fault, method, error.details() or "") from error
            await backoff.pause(give_up_at - clock())
        raise EtcdUnavailableError(f"no etcd endpoint of {self._names()} answered within {self._retry_s:g} s")

    def _move_on(self, failed: Endpoint) -> None:
        """Use the next node, unless another call has moved on from the failed one already."""
        if self.current is failed:
            self._current = (self._current + 1) % len(self._all)

    async def _log_in(self) -> None:
        request = pb.AuthenticateRequest(name=self._user, password=self._password)
        try:
            self._token = (await self._call(AUTHENTICATE, request, with_token=False)).message.token
        except _AuthOffError:
            self._token = ""
        finally:
            self._login = None

    def _refusal(self, fault: Fault, method: Method[A], details: str) -> ScoreMeshError:
        call, names = method.path.rpartition("/")[2], self._names()
        if fault is Fault.FORBIDDEN and method is AUTHENTICATE:
            return EtcdAuthError(f"etcd at {names} does not accept user {self._user!r} with its password")
        error, text = {
            Fault.AUTH_OFF: (_AuthOffError, "no login is needed"),
            Fault.STALE_TOKEN: (EtcdAuthError, f"etcd at {names} asks for a user and a password; none are configured"),
            Fault.FORBIDDEN: (EtcdAuthError, f"etcd user {self._user!r} is not allowed to do this: {call}"),
            Fault.LEASE_GONE: (EtcdLeaseLostError, f"{call}: the etcd lease does not exist any more"),
            Fault.HISTORY_GONE: (EtcdHistoryGoneError, f"{call}: etcd does not have the revision that was asked for"),
        }.get(fault, (EtcdRefusedError, f"etcd refused {call}: {explain(details)}"))
        return error(text)

    def _names(self) -> str:
        return ", ".join(endpoint.address for endpoint in self._all)


class _AuthOffError(EtcdRefusedError):
    """The cluster asks for no login, so ours is not needed."""


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    try:
        ca = tls.ca.read_bytes()
        key, cert = (path.read_bytes() if path else None for path in (tls.key, tls.cert))
    except OSError as error:
        raise InvalidRequestError(f"can't read the TLS file {error.filename}") from error
    return grpc.ssl_channel_credentials(ca, key, cert)
