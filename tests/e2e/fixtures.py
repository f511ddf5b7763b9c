"""Fixtures that the end-to-end tests and the failure tests share."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from client import AsyncClient
from ops.demo_models import RECIPES, DemoModel, train
from ops.etcd_server import EtcdServer
from registry.etcd import TlsFiles
from registry.offer import Facts
from tests.e2e.cluster import Cluster
from tests.e2e.gated_store import GatedStore
from tests.e2e.models import PUBLISHED, Shelf

FRONTS = ("http2", "http2-tls", "native", "aio-tls")


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd") / "data")
    server.start()
    yield server
    server.terminate()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedStore]:
    directory = tmp_path_factory.mktemp("store") / "objects"
    directory.mkdir()
    store = GatedStore(directory)
    yield store
    store.close()


@pytest.fixture(scope="session")
def models(
    etcd_server: EtcdServer, store: GatedStore, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, DemoModel]:
    """Real models by tenant/model, published for real. acme/tumour has the versions 1 (candidate) and 2 (live), which
    takes more features.
    """
    directory = tmp_path_factory.mktemp("trained")
    trained = {str(r.ref): train(r, directory) for r in RECIPES if str(r.ref) in {*PUBLISHED, "acme/tumour-small"}}
    shelf = Shelf(store.directory, etcd_server, "first")

    async def publish() -> None:
        tumour, small = trained["acme/tumour"], trained["acme/tumour-small"]
        await shelf.publish(small.path, tumour.ref, version="1", aliases=("candidate",))
        await shelf.publish(tumour.path, tumour.ref, version="2", facts=Facts(allow_breaking=True))
        for name in PUBLISHED[1:]:
            await shelf.publish(trained[name].path, trained[name].ref)

    asyncio.run(publish())
    return trained


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    """A CA of the test's own, and one certificate for every server and client."""
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session", params=FRONTS)
def cluster(
    request: pytest.FixtureRequest,
    etcd_server: EtcdServer,
    store: GatedStore,
    models: dict[str, DemoModel],
    tls: TlsFiles,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """A router and three scorers, which all tests of a front share and none harms."""
    front, _, with_tls = request.param.partition("-")
    directory = tmp_path_factory.mktemp(request.param)
    made = Cluster(directory, etcd_server, store.url, name=request.param, front=front, tls=tls if with_tls else None)
    asyncio.run(Shelf(store.directory, etcd_server, request.param).sync())
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def shelf(cluster: Cluster, store: GatedStore) -> Shelf:
    return Shelf(store.directory, cluster.etcd, cluster.name)


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[AsyncClient]:
    async with cluster.client() as client:
        yield client


def make_tls(directory: Path) -> TlsFiles:
    """Write a CA, and a certificate and key for 127.0.0.1 that serves both sides."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("test CA", authority_key.public_key(), "test CA", authority_key, authority=True)
    certificate = _certificate("scoremesh", key.public_key(), "test CA", authority_key, authority=False)
    files = TlsFiles(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    files.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def _certificate(
    subject: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(names, critical=False).add_extension(usage, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
