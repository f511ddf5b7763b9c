from __future__ import annotations

import asyncio
import datetime
import ipaddress
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ops.etcd_server import EtcdServer, find_binary
from registry.errors import EtcdAuthError, EtcdUnavailableError, InvalidRequestError
from registry.etcd import Etcd, TlsFiles
from registry.etcd_watch import Changed

Crash = Callable[[EtcdServer], Awaitable[None]]
PASSWORD = "correct horse"  # noqa: S105 - of a server that lives for seconds
USER = "scorer"


def make_certificate(directory: Path) -> TlsFiles:
    """A certificate for 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(directory / "ca.pem", directory / "ca.pem", directory / "key.pem")
    files.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return files


def etcdctl(server: EtcdServer, tls: TlsFiles, *words: str) -> None:
    tool = find_binary().with_name("etcdctl")
    command = [str(tool), "--endpoints", f"https://{server.endpoint}", "--cacert", str(tls.ca), *words]
    subprocess.run(command, env={"ETCDCTL_API": "3"}, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def locked_server(etcd_binary: Path, tls: TlsFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """TLS, and a user who may do everything below /ours/; tokens live for a second or two."""
    directory = tmp_path_factory.mktemp("locked")
    # bcrypt-cost 4: a login takes a millisecond and not a tenth of a second.
    args = ("--auth-token-ttl", "1", "--bcrypt-cost", "4", "--election-timeout", "500", "--heartbeat-interval", "50")
    server = EtcdServer(directory / "etcd", binary=etcd_binary, tls=tls, extra_args=args)
    server.start()
    etcdctl(server, tls, "user", "add", "root:root")
    etcdctl(server, tls, "user", "grant-role", "root", "root")
    etcdctl(server, tls, "user", "add", f"{USER}:{PASSWORD}")
    etcdctl(server, tls, "role", "add", "ours")
    etcdctl(server, tls, "role", "grant-permission", "ours", "--prefix=true", "readwrite", "/ours/")
    etcdctl(server, tls, "user", "grant-role", USER, "ours")
    etcdctl(server, tls, "auth", "enable")
    yield server
    server.terminate()


async def test_a_user_with_rights_reads_writes_and_watches(locked_server: EtcdServer, tls: TlsFiles) -> None:
    client = Etcd([locked_server.endpoint], user=USER, password=PASSWORD, tls=tls)
    try:
        async with aclosing(client.watch(b"/ours/a")) as watch:
            await anext(watch)
            await client.put(b"/ours/a", b"v")
            assert isinstance(await anext(watch), Changed)
        assert (await client.status()).has_leader
    finally:
        await client.aclose()


async def test_an_expired_token_is_renewed(locked_server: EtcdServer, tls: TlsFiles) -> None:
    client = Etcd([locked_server.endpoint], user=USER, password=PASSWORD, tls=tls)
    try:
        await client.put(b"/ours/b", b"1")
        first = client.endpoints.token
        async with asyncio.timeout(30):
            while client.endpoints.token == first:
                await asyncio.sleep(2.2)  # each use prolongs a token: look more seldom than it lives
                await client.put(b"/ours/b", b"2")
    finally:
        await client.aclose()


async def test_a_restart_voids_the_tokens_and_nobody_notices(
    locked_server: EtcdServer, tls: TlsFiles, crash: Crash
) -> None:
    client = Etcd([locked_server.endpoint], user=USER, password=PASSWORD, tls=tls)
    try:
        async with aclosing(client.watch(b"/ours/c")) as watch:
            await anext(watch)
            await client.put(b"/ours/c", b"1")
            assert isinstance(await anext(watch), Changed)
            await crash(locked_server)
            locked_server.spawn()
            await asyncio.to_thread(locked_server.wait_healthy)
            writes = [client.put(b"/ours/c", b"%d" % n) for n in range(5)]
            revisions = await asyncio.gather(*writes)
            seen: list[int] = []
            async with asyncio.timeout(30):
                while len(seen) < 5:
                    changed = await anext(watch)
                    assert isinstance(changed, Changed)
                    seen += [event.kv.mod_revision for event in changed.events]  # type: ignore[union-attr]
            assert seen == sorted(revisions)
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    ("user", "password", "key", "text"),
    [
        (USER, "wrong", b"/ours/a", "does not accept user 'scorer'"),
        ("", "", b"/ours/a", "asks for a user and a password"),
        (USER, PASSWORD, b"/theirs/a", "'scorer' is not allowed to do this: Range"),
    ],
)
async def test_who_may_not_is_told_so(
    locked_server: EtcdServer, tls: TlsFiles, user: str, password: str, key: bytes, text: str
) -> None:
    client = Etcd([locked_server.endpoint], user=user, password=password, tls=tls)
    try:
        with pytest.raises(EtcdAuthError, match=text):
            await client.get(key)
        with pytest.raises(EtcdAuthError):
            await anext(client.watch(key))
        with pytest.raises(EtcdAuthError):
            async with aclosing(client.watch_changes(key)) as watch:
                await anext(watch)
    finally:
        await client.aclose()


async def test_a_user_who_is_not_needed_does_no_harm(etcd_server: EtcdServer) -> None:
    client = Etcd([etcd_server.endpoint], user=USER, password=PASSWORD)
    try:
        await client.put(b"/ours/a", b"v")
    finally:
        await client.aclose()


async def test_a_server_that_is_not_trusted_is_not_used(locked_server: EtcdServer, tmp_path: Path) -> None:
    client = Etcd([locked_server.endpoint], tls=make_certificate(tmp_path), retry_s=1.0)
    try:
        with pytest.raises(EtcdUnavailableError):
            await client.get(b"/ours/a")
    finally:
        await client.aclose()


async def test_a_missing_certificate_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"nowhere\.pem"):
        Etcd(["127.0.0.1:1"], tls=TlsFiles(tmp_path / "nowhere.pem"))


async def test_a_client_certificate_is_shown(etcd_binary: Path, tls: TlsFiles, tmp_path: Path) -> None:
    args = ("--client-cert-auth", "--trusted-ca-file", str(tls.ca))
    server = EtcdServer(tmp_path / "etcd", binary=etcd_binary, tls=tls, extra_args=args)
    server.start()
    known, unknown = Etcd([server.endpoint], tls=tls), Etcd([server.endpoint], tls=TlsFiles(tls.ca), retry_s=1.0)
    try:
        await known.put(b"k", b"v")
        with pytest.raises(EtcdUnavailableError):
            await unknown.get(b"k")
    finally:
        await known.aclose()
        await unknown.aclose()
        server.terminate()
