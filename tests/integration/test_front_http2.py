"""The project's own front against real clients (grpc, grpc.aio, the router's channel, h2load), with TLS, while it
drains, and against peers that are slow, silent, dead or hostile. What all fronts have in common is in test_fronts.py.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from registry.etcd import TlsFiles
from registry.front import Call, Gate, Method
from registry.front_http2 import Http2Front
from registry.front_http2_peer import DEFAULT_PATIENCE, Patience
from registry.health import Health
from registry.http2 import frames as h2f
from registry.server import server_context
from router.channel import Channel

UNARY, STREAM = "/test.Test/Unary", "/test.Test/Stream"
PATIENCE_S = 20.0
SHORT = Patience(greeting_s=0.5, silence_s=0.5, answer_s=0.5, goodbye_s=0.5)
MAX_MESSAGE_BYTES = 8 * 2**20
LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
ALONE = ("grpc.use_local_subchannel_pool", 1)
OPENING = h2f.PREFACE + h2f.settings([]) + h2f.frame(h2f.SETTINGS, h2f.ACK, 0)
Unary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a peer does may raise into the event loop, which would log it."""
    yield
    assert [record for record in caplog.get_records("call") if record.name == "asyncio"] == []


class Served:
    """A front whose unary calls are echoed, or held in `calls`; a stream answers with `pieces`."""

    def __init__(self, tls: TlsFiles | None = None, patience: Patience = DEFAULT_PATIENCE) -> None:
        self.front = Http2Front("127.0.0.1:0", Gate(MAX_MESSAGE_BYTES), server_context(tls), patience)
        self.calls: list[Call] = []
        self.cancelled: list[Call] = []
        self.answer: Callable[[Call], None] = lambda call: call.respond(call.payload)
        self.pieces: list[bytes] = []
        self.health = Health([])

    async def start(self) -> None:
        methods = [Method(UNARY, self._unary), Method(STREAM, self._stream, streaming=True)]
        await self.front.start([*methods, *self.health.methods()])
        self.address = f"127.0.0.1:{self.front.port}"

    def _unary(self, call: Call) -> None:
        self.calls.append(call)
        call.on_cancel = lambda: self.cancelled.append(call)
        self.answer(call)

    def _stream(self, call: Call) -> None:
        for piece in self.pieces:
            call.respond(piece)
        call.end()

    def hold(self) -> None:
        self.answer = lambda call: None


@asynccontextmanager
async def serving(tls: TlsFiles | None = None, patience: Patience = DEFAULT_PATIENCE) -> AsyncIterator[Served]:
    served = Served(tls, patience)
    await served.start()
    try:
        yield served
    finally:
        await served.front.stop()
        assert served.front.peers == set()


def unary(channel: grpc.aio.Channel) -> Unary:
    return channel.unary_unary(UNARY)


async def value(call: Awaitable[bytes]) -> bytes:
    return await call


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def request(stream_id: int, payload: bytes = b"hello", path: str = UNARY, timeout: bytes = b"") -> bytes:
    pairs = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode())]
    pairs += [(b"content-type", b"application/grpc"), *([(b"grpc-timeout", timeout)] if timeout else [])]
    block = b"".join(h2f.literal(*pair) for pair in pairs)
    body = h2f.PREFIX.pack(0, len(payload)) + payload
    head = h2f.frame(h2f.HEADERS, h2f.END_HEADERS, stream_id, block)
    return head + h2f.frame(h2f.DATA, h2f.END_STREAM, stream_id, body)


class RawPeer:
    """A client of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read_frame(self) -> tuple[int, int, int, bytes]:
        async with asyncio.timeout(PATIENCE_S):
            word, flags, stream_id = h2f.HEAD.unpack(await self._reader.readexactly(h2f.HEAD_BYTES))
            return word & 0xFF, flags, stream_id, await self._reader.readexactly(word >> 8)

    async def read_until(self, kind: int) -> tuple[int, int, int, bytes]:
        while True:
            frame = await self.read_frame()
            if frame[0] == kind:
                return frame

    async def read_to_the_end(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def raw_peer(served: Served, context: ssl.SSLContext | None = None) -> AsyncIterator[RawPeer]:
    peer = RawPeer(*await asyncio.open_connection("127.0.0.1", served.front.port, ssl=context))
    try:
        yield peer
    finally:
        peer.close()
        await asyncio.sleep(0)


# --- clients ---


async def test_a_client_with_threads() -> None:
    async with serving() as served:

        def run() -> list[bytes]:
            with grpc.insecure_channel(served.address, LARGE) as channel:
                method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(UNARY)
                futures = [method.future(b"%d" % number, timeout=PATIENCE_S) for number in range(100)]
                stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(STREAM)
                return [future.result() for future in futures] + list(stream(b"", timeout=PATIENCE_S))

        served.pieces = [b"a", b"", b"c" * 100_000]
        assert await asyncio.to_thread(run) == [b"%d" % number for number in range(100)] + served.pieces


class Collected:
    """A receiver of the router's channel."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.end: tuple[int, bool] | None = None

    def on_message(self, payload: bytes) -> None:
        self.messages.append(payload)

    def on_end(self, status: int, message: str, sent: bool) -> None:
        self.end = (status, sent)


async def test_the_channel_of_the_router() -> None:
    async with serving() as served:
        channel = Channel(served.address, UNARY.encode())
        receivers = [Collected() for _ in range(300)]
        for number, receiver in enumerate(receivers):
            channel.call(b"%d" % number * (1 + 300 * (number % 7)), PATIENCE_S, receiver)
        await until(lambda: all(receiver.end for receiver in receivers))
        for number, receiver in enumerate(receivers):
            assert (receiver.end, receiver.messages) == ((0, True), [b"%d" % number * (1 + 300 * (number % 7))])
        await channel.aclose()


@pytest.mark.parametrize(("connections", "in_flight"), [(1, 1), (1, 256), (20, 50)])
async def test_h2load(tmp_path: Path, connections: int, in_flight: int) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is missing: apt-get install nghttp2-client")
    body = tmp_path / "body"
    body.write_bytes(b"\0\0\0\0\5hello")
    async with serving() as served:
        argv = ["-n", "4000", "-c", str(connections), "-m", str(in_flight), "-d", str(body)]
        argv += ["-H", "content-type: application/grpc", "-H", "grpc-timeout: 10S"]
        process = await asyncio.create_subprocess_exec(
            "h2load", f"http://{served.address}{UNARY}", *argv, stdout=asyncio.subprocess.PIPE
        )
        output = (await process.communicate())[0].decode()
        assert " 4000 succeeded" in output
        assert f"({4000 * 10}) data" in output
        assert len(served.calls) == 4000


async def test_a_thousand_calls_on_one_connection() -> None:
    async with serving() as served:
        served.hold()
        async with grpc.aio.insecure_channel(served.address) as channel:
            waiting = [asyncio.ensure_future(value(unary(channel)(b"%d" % n, timeout=PATIENCE_S))) for n in range(1000)]
            await until(lambda: len(served.calls) == 1000)
            assert len(served.front.peers) == 1
            for call in served.calls:
                call.respond(call.payload)
            assert await asyncio.gather(*waiting) == [b"%d" % n for n in range(1000)]


async def test_two_hundred_connections() -> None:
    async with serving() as served:
        served.hold()
        peers = [await asyncio.open_connection("127.0.0.1", served.front.port) for _ in range(200)]
        for number, (_, writer) in enumerate(peers):
            writer.write(OPENING + request(1, b"%d" % number))
        await until(lambda: len(served.calls) == 200)
        for call in served.calls:
            call.respond(call.payload)
        for number, (reader, writer) in enumerate(peers):
            async with asyncio.timeout(PATIENCE_S):
                assert b"\0" + (len(b"%d" % number)).to_bytes(4, "big") + b"%d" % number in await reader.readuntil(
                    b"grpc-status\x010"
                )
            writer.transport.abort()
        await until(lambda: not served.front.peers)


# --- TLS ---


class Certificates:
    """A certificate of 127.0.0.1 that is its own authority, and another one of its kind."""

    def __init__(self, folder: Path) -> None:
        self.key, self.cert = _certificate()
        self.other_key, self.other_cert = _certificate()
        self.files = TlsFiles(ca=folder / "cert", cert=folder / "cert", key=folder / "key")
        self.own = self.files._replace(ca=Path())  # clients need no certificate
        (folder / "key").write_bytes(self.key)
        (folder / "cert").write_bytes(self.cert)


def _certificate() -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - hour, now + hour)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(pem, pkcs8, plain), builder.sign(key, hashes.SHA256()).public_bytes(pem)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


async def echo_over_tls(served: Served, credentials: grpc.ChannelCredentials, payload: bytes) -> bytes:
    async with grpc.aio.secure_channel(served.address, credentials, [*LARGE, ALONE]) as channel:
        return await unary(channel)(payload, timeout=PATIENCE_S)


async def test_tls(certificates: Certificates) -> None:
    async with serving(certificates.own) as served:
        trusting = grpc.ssl_channel_credentials(certificates.cert)
        for size in (5, MAX_MESSAGE_BYTES):
            assert await echo_over_tls(served, trusting, bytes(size)) == bytes(size)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await echo_over_tls(served, grpc.ssl_channel_credentials(certificates.other_cert), b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tls_with_client_certificates(certificates: Certificates) -> None:
    c = certificates
    async with serving(c.files) as served:
        known = grpc.ssl_channel_credentials(c.cert, c.key, c.cert)
        assert await echo_over_tls(served, known, b"hello") == b"hello"
        stranger = grpc.ssl_channel_credentials(c.cert, c.other_key, c.other_cert)
        for credentials in (grpc.ssl_channel_credentials(c.cert), stranger):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await echo_over_tls(served, credentials, b"hello")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(served.calls) == 1


@pytest.mark.parametrize("protocols", [[], ["http/1.1"], ["h2"]])
async def test_tls_needs_alpn(certificates: Certificates, protocols: list[str]) -> None:
    context = ssl.create_default_context(cadata=certificates.cert.decode())
    if protocols:
        context.set_alpn_protocols(protocols)
    async with serving(certificates.own) as served, raw_peer(served, context) as peer:
        if protocols == ["h2"]:
            peer.send(OPENING)
            assert (await peer.read_frame())[0] == h2f.SETTINGS
        else:
            assert await peer.read_to_the_end() == b""


async def test_answers_leave_before_a_tls_connection_closes(certificates: Certificates) -> None:
    async with serving(certificates.own) as served:
        served.hold()
        credentials = grpc.ssl_channel_credentials(certificates.cert)
        async with grpc.aio.secure_channel(served.address, credentials, LARGE) as channel:
            waiting = [asyncio.ensure_future(value(unary(channel)(b"", timeout=PATIENCE_S))) for _ in range(20)]
            await until(lambda: len(served.calls) == 20)
            for call in served.calls:
                call.respond(bytes(50_000))
            await served.front.stop()
            assert await asyncio.gather(*waiting) == [bytes(50_000)] * 20


# --- deadlines, slow readers, lost clients ---


async def test_a_deadline_that_the_client_does_not_enforce() -> None:
    async with serving() as served, raw_peer(served) as peer:
        served.hold()
        peer.send(OPENING + request(1, timeout=b"50m"))
        kind, flags, stream_id, block = await peer.read_until(h2f.HEADERS)
        assert (kind, flags, stream_id) == (h2f.HEADERS, h2f.END_HEADERS | h2f.END_STREAM, 1)
        assert b"grpc-status\x014" in block
        assert served.cancelled == served.calls
        assert served.front.gate.running == 0


async def test_a_slow_reader_of_a_large_answer() -> None:
    payload = bytes(range(256)) * (8 * 2**20 // 256)
    async with serving() as served, raw_peer(served) as peer:
        served.answer = lambda call: call.respond(payload)
        peer.send(OPENING + request(1))
        received = bytearray()
        while len(received) < len(payload) + 5:
            _, _, _, data = await peer.read_until(h2f.DATA)
            received += data
            peer.send(h2f.window_update(1, len(data)) + h2f.window_update(0, len(data)))
        assert received[5:] == payload
        assert (await peer.read_frame())[:3] == (h2f.HEADERS, h2f.END_HEADERS | h2f.END_STREAM, 1)


CLIENT = """
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    calls = [channel.unary_unary("/test.Test/Unary").future(b"x") for _ in range(10)]
    calls[0].result()
"""


async def test_a_client_that_is_killed_has_its_calls_cancelled() -> None:
    async with serving() as served:
        served.hold()
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", CLIENT, served.address)
        await until(lambda: len(served.calls) == 10)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await until(lambda: len(served.cancelled) == 10)
        assert await served.front.idle(PATIENCE_S)


async def test_an_end_of_a_call_that_raises_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    def hold(call: Call) -> None:
        call.on_cancel = fail

    async with serving() as served, raw_peer(served) as peer:
        served.answer = hold
        peer.send(OPENING + request(1) + request(3, timeout=b"1m") + request(5))
        await until(lambda: len(served.calls) == 3)
        assert (await peer.read_until(h2f.HEADERS))[2] == 3
        peer.send(h2f.rst_stream(1, h2f.CANCEL))
        await until(lambda: served.front.gate.running == 1)
        served.calls[2].respond(b"fine")
        assert (await peer.read_until(h2f.DATA))[2:] == (5, b"\0\0\0\0\4fine")
    assert [record.exc_info is not None for record in caplog.records if record.levelno == logging.ERROR] == [True, True]


# --- draining and stopping ---


async def test_a_client_with_two_addresses_loses_nothing_while_one_drains() -> None:
    async with serving() as first, serving() as second:
        loop = asyncio.get_running_loop()

        def answer_later(call: Call) -> None:
            loop.call_later(0.002, call.respond, call.payload)

        first.answer = second.answer = answer_later
        target = f"ipv4:{first.address},{second.address}"
        stopping = False
        done: list[bytes] = []

        async def keep_calling(method: Unary, number: int) -> None:
            while not stopping:
                done.append(await method(b"%d" % number, timeout=PATIENCE_S))

        async with grpc.aio.insecure_channel(target, [ALONE]) as channel:
            tasks = [asyncio.create_task(keep_calling(unary(channel), number)) for number in range(64)]
            await until(lambda: len(first.calls) > 500)
            assert not second.calls
            first.front.refuse_new("this server is shutting down")
            assert await first.front.idle(PATIENCE_S)
            await first.front.stop()
            known = len(second.calls)
            await until(lambda: len(second.calls) > known + 500)
            stopping = True
            await asyncio.gather(*tasks)
        assert len(done) == len(first.calls) + len(second.calls)


async def test_going_away_refuses_what_crosses_with_it_in_a_way_that_allows_a_retry() -> None:
    async with serving() as served, raw_peer(served) as peer:
        served.hold()
        peer.send(OPENING + request(1))
        await until(lambda: len(served.calls) == 1)
        served.front.refuse_new("this server is shutting down")
        peer.send(request(3))
        assert (await peer.read_until(h2f.GOAWAY))[3] == bytes((0, 0, 0, 1, 0, 0, 0, 0))
        assert (await peer.read_frame()) == (h2f.RST_STREAM, 0, 3, bytes((0, 0, 0, h2f.REFUSED_STREAM)))
        served.calls[0].respond(b"done")
        assert (await peer.read_until(h2f.DATA))[3] == b"\0\0\0\0\4done"


async def test_stopping_sends_what_was_answered() -> None:
    async with serving() as served:
        served.hold()
        async with grpc.aio.insecure_channel(served.address) as channel:
            waiting = [asyncio.ensure_future(value(unary(channel)(b"", timeout=PATIENCE_S))) for _ in range(100)]
            await until(lambda: len(served.calls) == 100)
            for call in served.calls:
                call.respond(bytes(50_000))
            await served.front.stop()
            assert await asyncio.gather(*waiting) == [bytes(50_000)] * 100


async def test_stopping_says_so_to_running_calls() -> None:
    async with serving() as served, raw_peer(served) as peer:
        served.hold()
        peer.send(OPENING + request(1))
        await until(lambda: len(served.calls) == 1)
        await served.front.stop()
        block = (await peer.read_until(h2f.HEADERS))[3]
        assert b"grpc-status\x0214" in block
        assert served.cancelled == served.calls


async def test_stopping_while_a_client_sends() -> None:
    """Bytes that wait unread don't make the close a reset that would take answers with it."""
    async with serving() as served, raw_peer(served) as peer:
        served.hold()
        peer.send(OPENING + request(1))
        await until(lambda: len(served.calls) == 1)
        served.calls[0].respond(b"answer")
        stopping = asyncio.create_task(served.front.stop())
        for number in range(1, 200):
            peer.send(request(2 * number + 1, bytes(5000)))
        assert b"answer" in await peer.read_to_the_end()
        peer.close()
        await stopping


# --- health ---


async def test_health_as_probes_and_balancers_use_it() -> None:
    async with serving() as served, grpc.aio.insecure_channel(served.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        served.health.set_ready(True)
        assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)).status == 1
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "unknown")]
        streams = [aiter(watch) for watch in watches]
        assert [(await anext(stream)).status for stream in streams] == [1, 3]
        served.health.set_ready(False)
        assert (await anext(streams[0])).status == 2
        assert served.front.gate.running == 2
        for watch in watches:
            watch.cancel()
        assert await served.front.idle(PATIENCE_S)
        served.health.set_ready(True)


# --- silent, dead and hostile peers ---


@pytest.mark.parametrize("opening", [b"", h2f.PREFACE[:10], h2f.PREFACE, h2f.PREFACE + h2f.settings([])[:-1]])
async def test_a_peer_that_does_not_greet_is_cut_off(opening: bytes) -> None:
    async with serving(patience=SHORT) as served, raw_peer(served) as peer:
        peer.send(opening)
        await peer.read_to_the_end()
        assert served.front.peers == set()


async def test_a_peer_that_greets_for_ever_is_cut_off() -> None:
    async with serving(patience=SHORT) as served, raw_peer(served) as peer:
        ended = asyncio.ensure_future(peer.read_to_the_end())
        for byte in h2f.PREFACE + h2f.settings([(7, 7)] * 100):
            if ended.done():
                break
            peer.send(bytes((byte,)))
            await asyncio.wait([ended], timeout=0.1)
        assert ended.done()
        await ended


async def test_an_idle_peer_is_pinged_and_kept_and_a_dead_one_cut_off() -> None:
    async with serving(patience=SHORT) as served, raw_peer(served) as alive, raw_peer(served) as dead:
        for peer in (alive, dead):
            peer.send(OPENING)
        for _ in range(2):
            assert (await alive.read_until(h2f.PING))[1:] == (0, 0, bytes(8))
            alive.send(h2f.frame(h2f.PING, h2f.ACK, 0, bytes(8)))
        await dead.read_to_the_end()
        alive.send(request(1))
        assert (await alive.read_until(h2f.DATA))[3] == b"\0\0\0\0\5hello"
        assert len(served.front.peers) == 1


@pytest.mark.parametrize(
    "flood",
    [
        h2f.frame(h2f.PING, 0, 0, bytes(8)) * 1000,
        b"".join(request(2 * number + 1, b"", path="/" + "x" * 1000) for number in range(100)),
    ],
    ids=["pings", "unknown methods"],
)
async def test_a_flood_of_a_peer_that_does_not_read_is_bounded(flood: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with serving(patience=SHORT) as served:
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", served.front.port))
        sent, most = 0, 0
        data = OPENING + flood * (40_000_000 // len(flood))
        while sent < len(data):
            try:
                sent += sock.send(data[sent : sent + 100_000])
            except BlockingIOError:
                if not served.front.peers:  # cut off, for it takes nothing of what waits for it
                    break
                await asyncio.sleep(0.01)
            except (ConnectionResetError, BrokenPipeError):
                break
            await asyncio.sleep(0)
            most = max([most, *(peer.waiting_bytes() for peer in served.front.peers)])
        sock.close()
        assert most < 8_000_000
        await until(lambda: not served.front.peers)


async def test_not_http2_at_all() -> None:
    async with serving() as served, raw_peer(served) as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        data = await peer.read_to_the_end()
        assert h2f.goaway(0, h2f.PROTOCOL_ERROR) in data or data == b""
        await until(lambda: not served.front.peers)


async def test_a_peer_that_breaks_the_protocol_has_its_calls_cancelled() -> None:
    async with serving() as served, raw_peer(served) as peer:
        served.hold()
        peer.send(OPENING + request(1) + request(3) + h2f.frame(h2f.PING, 0, 0, b""))
        await until(lambda: len(served.cancelled) == 2)
        assert (await peer.read_until(h2f.GOAWAY))[3][4:] == bytes((0, 0, 0, h2f.FRAME_SIZE_ERROR))
        await until(lambda: not served.front.peers)


@pytest.mark.parametrize(
    "scenario",
    [
        test_a_client_with_threads,
        test_the_channel_of_the_router,
        test_two_hundred_connections,
        test_a_deadline_that_the_client_does_not_enforce,
        test_a_slow_reader_of_a_large_answer,
        test_a_client_that_is_killed_has_its_calls_cancelled,
        test_a_client_with_two_addresses_loses_nothing_while_one_drains,
        test_stopping_sends_what_was_answered,
        test_stopping_while_a_client_sends,
        test_an_idle_peer_is_pinged_and_kept_and_a_dead_one_cut_off,
        test_a_peer_that_breaks_the_protocol_has_its_calls_cancelled,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_on_uvloop(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
