"""Calls to every scorer that etcd announces.

Contract: `ask` sends one request to all members, ready or draining, in parallel, and says of each how it went; a member
that fails never fails the others. A connection is kept for each process (an address and an incarnation), so that a
scorer that came back isn't waited for in its predecessor's backoff; it is closed once etcd no longer announces the
process and nobody waits on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from registry.etcd import Etcd
from registry.etcd_records import TlsFiles
from registry.keys import Keys, decode_member
from registry.model import Member
from scoremesh.scorer.v1 import scorer_pb2 as pb

_log = logging.getLogger(__name__)
_MAX_MESSAGE_BYTES = 64 << 20
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
]

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)


class Answered(NamedTuple, Generic[A]):
    """The member answered."""

    member: Member
    answer: A


class Failed(NamedTuple):
    """The member answered with a failure, or went away while it worked (then `reason` is ""). `reason`: of
    `registry.errors`; `text`: for a person.
    """

    member: Member
    reason: str
    text: str


class Unreachable(NamedTuple):
    """No connection came about, so it never saw the request. `refused`: nothing listens at its address any more."""

    member: Member
    refused: bool


class TimedOut(NamedTuple):
    """It was silent until the time was over."""

    member: Member
    timeout_s: float


Reply = Answered[A] | Failed | Unreachable | TimedOut


class Method(NamedTuple, Generic[Q, A]):
    """One method of ResidencyService: its name and its messages."""

    name: str
    request: type[Q]
    answer: type[A]


PREPARE = Method("Prepare", pb.PrepareRequest, pb.PrepareResponse)
GET_ROLLOUT_STATS = Method("GetRolloutStats", pb.GetRolloutStatsRequest, pb.GetRolloutStatsResponse)
PURGE = Method("Purge", pb.PurgeRequest, pb.PurgeResponse)
LIST_RESIDENT = Method("ListResident", pb.ListResidentRequest, pb.ListResidentResponse)


class ScorerCalls:
    """See the module. Build it in a running event loop; close it with `aclose`. `concurrency`: calls at a time."""

    def __init__(self, etcd: Etcd, keys: Keys, *, tls: TlsFiles | None = None, concurrency: int = 64) -> None:
        self._etcd, self._keys = etcd, keys
        self._credentials = _credentials(tls) if tls is not None else None
        self._slots = asyncio.Semaphore(concurrency)
        self._lines: dict[tuple[str, str], _Line] = {}

    async def members(self) -> list[Member]:
        """Who is announced now. Raises EtcdUnavailableError."""
        found: list[Member] = []
        for kv in (await self._etcd.list_prefix(self._keys.members_prefix)).kvs:
            try:
                found.append(decode_member(kv.value))
            except msgspec.DecodeError:
                _log.warning("%r holds no member", kv.key)
        return found

    async def ask(self, method: Method[Q, A], request: Q, timeout_s: float) -> list[Reply[A]]:
        """Ask every member; `timeout_s` is for each from when its turn has come. Raises EtcdUnavailableError."""
        members = await self.members()
        await self.prune(members)
        return await asyncio.gather(*(self.ask_member(member, method, request, timeout_s) for member in members))

    async def ask_member(self, member: Member, method: Method[Q, A], request: Q, timeout_s: float) -> Reply[A]:
        """Ask one member."""
        async with self._slots:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._call(member, method, request)
            except TimeoutError:
                return TimedOut(member, timeout_s)

    async def aclose(self) -> None:
        """Close the connections; calls that are under way end as cancelled."""
        lines = list(self._lines.values())
        self._lines.clear()
        await asyncio.gather(*(line.channel.close() for line in lines))

    async def _call(self, member: Member, method: Method[Q, A], request: Q) -> Reply[A]:
        with self._line(member) as line:
            if not await line.connect():
                return Unreachable(member, refused=await _is_refused(member.address))
            try:
                return Answered(member, await line.call(method, request))
            except grpc.aio.AioRpcError as error:
                return _failed(member, error)

    @contextmanager
    def _line(self, member: Member) -> Iterator[_Line]:
        process = (member.address, member.incarnation)
        line = self._lines.get(process)
        if line is None:
            line = self._lines[process] = _Line(member.address, self._credentials)
        line.users += 1
        try:
            yield line
        finally:
            line.users -= 1

    async def prune(self, members: Iterable[Member]) -> None:
        """Close the connections to processes that aren't among these."""
        announced = {(member.address, member.incarnation) for member in members}
        idle = [process for process, line in self._lines.items() if process not in announced and not line.users]
        lines = [self._lines.pop(process) for process in idle]
        await asyncio.gather(*(line.channel.close() for line in lines))


class _Line:
    """The connection to one process. `users`: calls that are on it."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.channel = (
            grpc.aio.insecure_channel(address, _OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, _OPTIONS)
        )
        self.users = 0

    async def call(self, method: Method[Q, A], request: Q) -> A:
        """Raises grpc.aio.AioRpcError."""
        ask = self.channel.unary_unary(
            f"/scoremesh.scorer.v1.ResidencyService/{method.name}",
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.answer.FromString,
        )
        return await ask(request)

    async def connect(self) -> bool:
        """Wait for the connection; False when the attempt failed. Done before the call and not by it, since only so it
        is known that a call that breaks had reached the member: it may be what killed it.
        """
        state = self.channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
                return False
            await self.channel.wait_for_state_change(state)
            state = self.channel.get_state(try_to_connect=True)
        return True


def _failed(member: Member, error: grpc.aio.AioRpcError) -> Failed:
    """What the scorer says itself; what gRPC's library says goes to the log only."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            reason = error_details_pb2.ErrorInfo()
            if any(detail.Unpack(reason) for detail in status_pb2.Status.FromString(value).details):
                return Failed(member, reason.reason, error.details() or reason.reason)
    _log.warning("a call to member %s failed: %s", member.id, error.details())
    return Failed(member, "", f"the call ended with {error.code().name}")


async def _is_refused(address: str) -> bool:
    """Whether the machine says that nothing listens there; a machine that says nothing may only be cut off from us."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        return False
    writer.close()
    return False


def _credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """As routers speak to scorers: against the CA (without one, against those that the machine trusts), and with our
    own certificate.
    """
    authority = tls.ca.read_bytes() if tls.ca != Path() else None
    key, cert = (path.read_bytes() if path is not None else None for path in (tls.key, tls.cert))
    return grpc.ssl_channel_credentials(authority, key, cert)
