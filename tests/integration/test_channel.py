"""The channel against real servers: grpc.aio, pygrpc-native, and a hand-driven one (the package h2) for what those two
can't be made to do."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import h2.settings
import pygrpc_native.aio
import pytest

from registry.failure import Code
from registry.http2 import frames as h2f
from router.channel import Channel, State

PATH = b"/test.Service/Run"
WAIT_S = 20.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
MAKERS: dict[str, Callable[..., Any]] = {"grpc.aio": grpc.aio.server, "pygrpc-native": pygrpc_native.aio.server}


class Collected:
    """A receiver that keeps what it hears."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ends: list[tuple[int, str, bool]] = []
        self.over = asyncio.Event()

    def on_message(self, payload: bytes) -> None:
        assert not self.ends
        self.messages.append(payload)

    def on_end(self, status: int, message: str, sent: bool) -> None:
        self.ends.append((status, message, sent))
        self.over.set()

    async def result(self) -> tuple[int, str, bool]:
        await asyncio.wait_for(self.over.wait(), WAIT_S)
        (end,) = self.ends
        return end


class Service:
    """What the servers do: the first byte of a request chooses."""

    def __init__(self) -> None:
        self.hanging = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.release = asyncio.Event()

    async def run(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        kind, rest = request[:1], request[1:]
        if kind == b"e":
            yield rest
        elif kind == b"n":
            for number in range(int(rest)):
                yield b"%d" % number
        elif kind == b"a":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, rest.decode())
        elif kind == b"m":
            yield dict(context.invocation_metadata())["x-trace"].encode()
            yield b"%f" % context.time_remaining()
        elif kind == b"h":
            yield await self.hang()

    async def hang(self) -> bytes:
        self.hanging.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"released"


async def start(
    make: Callable[..., Any], service: Service, *, port: int = 0, options: tuple[tuple[str, Any], ...] = ()
) -> tuple[Any, int]:
    server = make(options=[*UNLIMITED, *options])
    handlers: dict[str, Any] = {"Run": grpc.unary_stream_rpc_method_handler(service.run)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    server.add_registered_method_handlers("test.Service", handlers)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, bound


@asynccontextmanager
async def channel_to(port: int, **settings: Any) -> AsyncIterator[Channel]:
    channel = Channel(f"127.0.0.1:{port}", PATH, **settings)
    try:
        yield channel
    finally:
        await channel.aclose()


async def call(channel: Channel, payload: bytes, timeout_s: float = WAIT_S) -> tuple[Collected, tuple[int, str, bool]]:
    collected = Collected()
    channel.call(payload, timeout_s, collected)
    return collected, await collected.result()


def state_of(channel: Channel) -> State:
    """As a call, so that a type checker doesn't take the state for fixed after an assertion."""
    return channel.state


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=sorted(MAKERS))
async def port(request: pytest.FixtureRequest, service: Service) -> AsyncIterator[int]:
    server, bound = await start(MAKERS[request.param], service)
    yield bound
    await server.stop(None)


# --- answers ---


async def test_many_calls_at_once_get_their_own_answers(port: int) -> None:
    async with channel_to(port) as channel:
        receivers = [Collected() for _ in range(300)]
        for number, receiver in enumerate(receivers):
            channel.call(b"n%d" % (number % 5) if number % 2 else b"e%d" % number, WAIT_S, receiver)
        for number, receiver in enumerate(receivers):
            assert await receiver.result() == (0, "", True)
            assert receiver.messages == ([b"%d" % at for at in range(number % 5)] if number % 2 else [b"%d" % number])
        assert state_of(channel) is State.READY


async def test_large_messages_pass_both_ways(port: int) -> None:
    payloads = [os.urandom(8 * 2**20) for _ in range(3)]
    async with channel_to(port) as channel:
        receivers = [Collected() for _ in payloads]
        for payload, receiver in zip(payloads, receivers, strict=True):
            channel.call(b"e" + payload, WAIT_S, receiver)
        for payload, receiver in zip(payloads, receivers, strict=True):
            assert await receiver.result() == (0, "", True)
            assert receiver.messages == [payload]


async def test_one_stream_may_carry_many_messages(port: int) -> None:
    async with channel_to(port) as channel:
        collected, result = await call(channel, b"n5000")
        assert result == (0, "", True)
        assert collected.messages == [b"%d" % at for at in range(5000)]


async def test_a_message_over_the_limit_ends_its_call(port: int) -> None:
    async with channel_to(port, max_message_bytes=1000) as channel:
        _, (status, _, sent) = await call(channel, b"e" + bytes(1001))
        assert (status, sent) == (Code.RESOURCE_EXHAUSTED, True)
        assert (await call(channel, b"e" + bytes(1000)))[1] == (0, "", True)


async def test_the_status_and_its_message_arrive(port: int) -> None:
    text = "nö such ☃ 100%\n"
    async with channel_to(port) as channel:
        assert (await call(channel, b"a" + text.encode()))[1] == (9, text, True)


async def test_metadata_and_timeout_reach_the_server(port: int) -> None:
    async with channel_to(port) as channel:
        collected = Collected()
        channel.call(b"m", 7.5, collected, h2f.literal(b"x-trace", b"abc"))
        assert await collected.result() == (0, "", True)
        assert collected.messages[0] == b"abc"
        assert 0 < float(collected.messages[1]) <= 7.5


# --- deadlines and cancelling ---


async def test_a_deadline_ends_the_call_on_both_sides(port: int, service: Service) -> None:
    async with channel_to(port) as channel:
        collected, (status, _, sent) = await call(channel, b"h", 0.1)
        assert (status, sent, collected.messages) == (Code.DEADLINE_EXCEEDED, True, [])
        await asyncio.wait_for(service.cancelled.wait(), WAIT_S)
        assert (await call(channel, b"eok"))[1] == (0, "", True)


async def test_a_cancelled_call_is_cancelled_at_the_server_and_silent_here(port: int, service: Service) -> None:
    async with channel_to(port) as channel:
        collected = Collected()
        handle = channel.call(b"h", WAIT_S, collected)
        await asyncio.wait_for(service.hanging.wait(), WAIT_S)
        handle.cancel()
        handle.cancel()
        await asyncio.wait_for(service.cancelled.wait(), WAIT_S)
        assert (await call(channel, b"eok"))[1] == (0, "", True)
        assert (collected.messages, collected.ends) == ([], [])


async def test_a_call_cancelled_while_it_waits_is_never_sent(port: int, service: Service) -> None:
    async with channel_to(port) as channel:
        collected = Collected()
        channel.call(b"h", WAIT_S, collected).cancel()
        assert (await call(channel, b"eok"))[1] == (0, "", True)
        assert collected.ends == []
        assert not service.hanging.is_set()


async def test_calls_made_by_callbacks_are_served(port: int) -> None:
    class Chain(Collected):
        left = 20

        def on_end(self, status: int, message: str, sent: bool) -> None:
            self.left -= 1
            if self.left and not status:
                channel.call(b"eagain", WAIT_S, self)
            else:
                super().on_end(status, message, sent)

    async with channel_to(port) as channel:
        chain = Chain()
        channel.call(b"efirst", WAIT_S, chain)
        assert await chain.result() == (0, "", True)
        assert chain.messages == [b"first"] + [b"again"] * 19


async def test_a_receiver_that_raises_harms_nobody_else(port: int) -> None:
    class Broken(Collected):
        def on_message(self, payload: bytes) -> None:
            raise ValueError(payload)

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with channel_to(port) as channel:
        broken, well = Broken(), Collected()
        channel.call(b"e1", WAIT_S, broken)
        channel.call(b"e2", WAIT_S, well)
        assert await broken.result() == await well.result() == (0, "", True)
        assert well.messages == [b"2"]
    assert [type(context["exception"]) for context in reported] == [ValueError]


# --- losing and finding the server ---


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with channel_to(unused.getsockname()[1], jitter=lambda: 0.999) as channel:
            assert state_of(channel) is State.IDLE
            status, message, sent = (await call(channel, b"e"))[1]
            assert (status, sent) == (Code.UNAVAILABLE, False)
            assert "refused" in message
            assert state_of(channel) is State.BACKOFF
            collected = Collected()
            channel.call(b"e", WAIT_S, collected)
            assert collected.ends == []  # never from inside `call`
            assert (await collected.result())[0] == Code.UNAVAILABLE


async def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with channel_to(silent.getsockname()[1], connect_timeout_s=0.3) as channel:
            hasty, patient = Collected(), Collected()
            channel.call(b"e", 0.05, hasty)
            channel.call(b"e", WAIT_S, patient)
            assert (await hasty.result())[::2] == (Code.DEADLINE_EXCEEDED, False)
            assert state_of(channel) is State.CONNECTING
            assert (await patient.result())[::2] == (Code.UNAVAILABLE, False)


async def test_a_server_that_speaks_something_else() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, channel_to(server.sockets[0].getsockname()[1]) as channel:
        assert (await call(channel, b"e"))[1][::2] == (Code.UNAVAILABLE, False)


def test_backoff_doubles_up_to_its_cap() -> None:
    async def delays(jitter: float) -> list[float]:
        channel = Channel("127.0.0.1:1", PATH, jitter=lambda: jitter)
        return [channel._next_backoff_s() for _ in range(9)]

    longest = asyncio.run(delays(1.0))
    assert longest[:4] == [0.05, 0.1, 0.2, 0.4]
    assert longest[-1] == 2.0
    assert asyncio.run(delays(0.0)) == [delay / 2 for delay in longest]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
async def test_the_successor_of_a_stopped_server_is_found(make: Callable[..., Any], service: Service) -> None:
    server, port = await start(make, service)
    async with channel_to(port) as channel:
        assert (await call(channel, b"eold"))[1] == (0, "", True)
        await server.stop(WAIT_S)
        await until(lambda: channel.state is not State.READY)
        successor, _ = await start(make, Service(), port=port)
        await until(lambda: channel.state is State.READY)
        assert (await call(channel, b"enew"))[1] == (0, "", True)
        await successor.stop(None)


async def test_new_calls_go_to_a_successor_while_old_ones_finish(service: Service) -> None:
    server, port = await start(grpc.aio.server, service)
    async with channel_to(port) as channel:
        old = Collected()
        channel.call(b"h", WAIT_S, old)
        await asyncio.wait_for(service.hanging.wait(), WAIT_S)
        stopping = asyncio.create_task(server.stop(WAIT_S))
        await until(lambda: channel.state is not State.READY)
        successor, _ = await start(grpc.aio.server, Service(), port=port)
        await until(lambda: channel.state is State.READY)
        assert (await call(channel, b"enew"))[1] == (0, "", True)
        assert old.ends == []
        service.release.set()
        assert await old.result() == (0, "", True)
        await stopping
        await successor.stop(None)


SERVER = """
import sys
from pygrpc_native import EVENT_CALL, NativeGrpcFront
front = NativeGrpcFront("127.0.0.1:" + sys.argv[1], [("/test.Service/Run", True)])
front.start()
print(front.bound_port, flush=True)
while (events := front.recv_batch(64)) is not None:
    for kind, call_id, _, payload, _ in events:
        if kind == EVENT_CALL and payload != b"h":
            front.stream_send(call_id, payload)
            front.stream_end(call_id)
"""


@asynccontextmanager
async def process(port: int = 0) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    args = ["-c", SERVER, str(port)]
    child = await asyncio.create_subprocess_exec(sys.executable, *args, stdout=asyncio.subprocess.PIPE)
    try:
        assert child.stdout is not None
        yield child, int(await asyncio.wait_for(child.stdout.readline(), WAIT_S))
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_a_killed_server_ends_calls_and_is_found_again() -> None:
    async with process() as (child, port), channel_to(port) as channel:
        assert (await call(channel, b"one"))[1] == (0, "", True)
        hanging = Collected()
        channel.call(b"h", WAIT_S, hanging)
        assert (await call(channel, b"two"))[1] == (0, "", True)
        child.kill()
        assert (await hanging.result())[::2] == (Code.UNAVAILABLE, True)
        await until(lambda: channel.state is State.BACKOFF)
        assert (await call(channel, b"three"))[1][::2] == (Code.UNAVAILABLE, False)
        async with process(port):
            await until(lambda: channel.state is State.READY)
            assert (await call(channel, b"four"))[1] == (0, "", True)


async def test_a_stalled_server_is_given_up() -> None:
    async with process() as (child, port), channel_to(port, keepalive_s=0.2) as channel:
        assert (await call(channel, b"one"))[1] == (0, "", True)
        child.send_signal(signal.SIGSTOP)
        status, message, _ = (await call(channel, b"h"))[1]
        assert (status, "silent" in message) == (Code.UNAVAILABLE, True)
        child.send_signal(signal.SIGCONT)
        await until(lambda: channel.state is State.READY)
        assert (await call(channel, b"two"))[1] == (0, "", True)


async def test_keepalive_lets_a_slow_call_live() -> None:
    async with process() as (_, port), channel_to(port, keepalive_s=0.05) as channel:
        _, (status, _, _) = await call(channel, b"h", 0.6)
        assert status == Code.DEADLINE_EXCEEDED
        assert state_of(channel) is State.READY


# --- closing ---


async def test_closing_ends_all_calls(port: int, service: Service) -> None:
    async with channel_to(port) as channel:
        hanging = Collected()
        channel.call(b"h", WAIT_S, hanging)
        await asyncio.wait_for(service.hanging.wait(), WAIT_S)
        await channel.aclose()
        assert (await hanging.result())[::2] == (Code.UNAVAILABLE, True)
        assert state_of(channel) is State.CLOSED
        assert (await call(channel, b"e"))[1] == (Code.UNAVAILABLE, "the channel was closed", False)
        await asyncio.wait_for(service.cancelled.wait(), WAIT_S)


async def test_closing_while_connecting_ends_the_waiting_calls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with channel_to(silent.getsockname()[1]) as channel:
            collected = Collected()
            channel.call(b"e", WAIT_S, collected)
            await asyncio.sleep(0)
            await channel.aclose()
            assert (await collected.result())[::2] == (Code.UNAVAILABLE, False)


# --- a server driven by hand ---


class Hand(asyncio.Protocol):
    """Answers each request with an empty message when `answers` is set; keeps the last connection."""

    last: Hand
    answers = True
    settings: ClassVar[dict[h2.settings.SettingCodes | int, int]] = {
        h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1
    }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        Hand.last = self
        self.transport = transport
        self.streams: list[int] = []
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.h2.initiate_connection()
        self.h2.update_settings(dict(self.settings))
        self.h2.increment_flow_control_window(2**31 - 1 - 65_535)
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.StreamEnded):
                assert event.stream_id is not None
                self.streams.append(event.stream_id)
                if self.answers:
                    self.answer(event.stream_id)
        self.flush()

    def answer(self, stream_id: int) -> None:
        self.h2.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
        self.h2.send_data(stream_id, bytes(5))
        self.h2.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())


@asynccontextmanager
async def hand_driven(kind: type[Hand] = Hand) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(kind, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        Hand.last.transport.abort()


async def test_goaway_tells_which_calls_may_be_repeated() -> None:
    class Mute(Hand):
        answers = False

    async with hand_driven(Mute) as port, channel_to(port) as channel:
        read, unread = Collected(), Collected()
        channel.call(b"1", WAIT_S, read)
        channel.call(b"2", WAIT_S, unread)
        await until(lambda: channel.state is State.READY and len(Hand.last.streams) == 2)
        old = Hand.last
        old.transport.write(h2f.goaway(1, h2f.NO_ERROR))
        assert (await unread.result())[::2] == (Code.UNAVAILABLE, False)
        old.answer(1)
        old.flush()
        assert await read.result() == (0, "", True)
        await until(old.transport.is_closing)  # the channel leaves when the last call is over
        await until(lambda: channel.state is State.READY and Hand.last is not old)


async def test_more_calls_than_the_server_allows_wait_for_their_turn() -> None:
    class Narrow(Hand):
        settings: ClassVar = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2}
        answers = False

        def data_received(self, data: bytes) -> None:
            super().data_received(data)  # raises if a third stream is open at once
            asyncio.get_running_loop().call_soon(self.answer_all)

        def answer_all(self) -> None:
            streams, self.streams = self.streams, []
            for stream_id in streams:
                self.answer(stream_id)
            self.flush()

    async with hand_driven(Narrow) as port, channel_to(port) as channel:
        receivers = [Collected() for _ in range(50)]
        handles = [channel.call(b"", WAIT_S, receiver) for receiver in receivers]
        handles[40].cancel()
        del receivers[40]
        assert [await receiver.result() for receiver in receivers] == [(0, "", True)] * 49


async def test_a_server_that_does_not_read_makes_calls_wait() -> None:
    async with hand_driven() as port, channel_to(port) as channel:
        assert (await call(channel, b""))[1] == (0, "", True)
        Hand.last.transport.pause_reading()
        large = [Collected() for _ in range(3)]
        for receiver in large:
            channel.call(bytes(8 * 2**20), WAIT_S, receiver)
        assert (await call(channel, b"", 0.1))[1][::2] == (Code.DEADLINE_EXCEEDED, False)
        Hand.last.transport.resume_reading()
        assert [await receiver.result() for receiver in large] == [(0, "", True)] * 3


async def test_when_stream_ids_are_used_up_a_new_connection_takes_over() -> None:
    async with hand_driven() as port, channel_to(port, jitter=lambda: 0.0) as channel:
        assert (await call(channel, b""))[1] == (0, "", True)
        old = channel._current
        assert old is not None
        old._h2._next_id = h2f.MAX_STREAM_ID
        assert (await call(channel, b""))[1] == (0, "", True)
        await call(channel, b"")
        await until(lambda: channel.state is State.READY)
        assert (await call(channel, b""))[1] == (0, "", True)
        assert channel._current is not old


# --- TLS ---


def certificate(folder: Path) -> tuple[bytes, bytes]:
    """A key and a certificate of 127.0.0.1 that is its own authority, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
        now + datetime.timedelta(hours=1)
    )
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    public = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(public)
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(pem, pkcs8, plain), public


async def test_tls(tmp_path: Path, service: Service) -> None:
    server = grpc.aio.server(options=UNLIMITED)
    handlers: dict[str, Any] = {"Run": grpc.unary_stream_rpc_method_handler(service.run)}
    server.add_registered_method_handlers("test.Service", handlers)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([certificate(tmp_path)]))
    await server.start()
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    async with channel_to(port, ssl=trusting, connect_timeout_s=WAIT_S) as channel:
        collected, result = await call(channel, b"e" + bytes(100_000))
        assert (result, collected.messages) == ((0, "", True), [bytes(100_000)])
    async with channel_to(port, ssl=ssl.create_default_context(), connect_timeout_s=WAIT_S) as channel:
        status, message, sent = (await call(channel, b"e"))[1]
        assert (status, sent, "CERTIFICATE_VERIFY_FAILED" in message) == (Code.UNAVAILABLE, False, True)
    await server.stop(None)


async def test_tls_without_http2(tmp_path: Path) -> None:
    key, public = certificate(tmp_path)
    (tmp_path / "key.pem").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
    trusting = ssl.create_default_context(cadata=public.decode())
    async with (
        server,
        channel_to(server.sockets[0].getsockname()[1], ssl=trusting, connect_timeout_s=WAIT_S) as channel,
    ):
        status, message, sent = (await call(channel, b"e"))[1]
        assert (status, sent, "HTTP/2" in message) == (Code.UNAVAILABLE, False, True)
