"""A publisher of many models, killed again and again: nothing is half visible, and running it again finishes."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ops.etcd_server import EtcdServer
from registry.artifacts import ArtifactStore
from registry.bulk_publish import read_items
from registry.etcd import Etcd
from registry.keys import Keys, decode_model
from registry.library import Library
from registry.model import ModelRef
from registry.store_urls import open_store
from tests.e2e.cluster import _ENVIRONMENT, ROOT
from tests.integration.publishing import check_published, check_synced

MODELS = 60
MOST_KILLS = 60


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    for number in range(MODELS):
        path = root / f"tenant{number % 5}" / f"model{number}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x08\x08\x12\x04test%d" % (number // 2))  # two of one content, in two tenants
    return root


@pytest.fixture
async def etcd(etcd_server: EtcdServer) -> AsyncIterator[Etcd]:
    client = Etcd([etcd_server.endpoint])
    yield client
    await client.aclose()


def run_and_kill(arguments: list[str], after_lines: int, after_s: float) -> int:
    """Start the publisher and kill -9 it some time after it has said so many lines; returns its exit status."""
    argv = [sys.executable, "-m", "tests.chaos.bulk_publishing", *arguments]
    with subprocess.Popen(argv, cwd=ROOT, env=_ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(after_lines):
            if not process.stdout.readline():
                break
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
    return process.returncode


async def check_all(store: ArtifactStore, etcd: Etcd, keys: Keys, refs: list[ModelRef]) -> int:
    """All that etcd names is whole, and each model too; returns how many models are live."""
    library = Library(store)
    entries = (await etcd.list_prefix(keys.models_prefix)).kvs
    for kv in entries:
        ref = keys.model_ref(kv.key)
        assert ref is not None
        for at in decode_model(kv.value).aliases.values():
            assert at == (await library.read_manifest(ref, at.version)).to_version()
    for ref in refs:
        await check_published(store, etcd, keys, ref)
    return len(entries)


@pytest.mark.parametrize("seed", range(5))
async def test_kill_9_again_and_again(
    seed: int, etcd_server: EtcdServer, etcd: Etcd, files: Path, tmp_path: Path
) -> None:
    random_ = random.Random(seed)
    store = open_store(f"file://{tmp_path}/store")
    keys = Keys(f"killed-{seed}-{tmp_path.name}")
    cluster = keys.models_prefix.decode().split("/")[2]
    refs = [item.ref for item in read_items(files)]
    arguments = [store.url, etcd_server.endpoint, cluster, str(files)]
    live = 0
    for _ in range(MOST_KILLS):
        # Those that are live already are told of, too; so the kill comes while one of the next few is published.
        status = await asyncio.to_thread(
            run_and_kill, arguments, live + random_.randint(1, 12), random_.random() * 0.02
        )
        assert status in (-signal.SIGKILL, 0)
        live = await check_all(store, etcd, keys, refs)
        if status == 0:
            break
    assert status == 0, "it never came to its end"
    assert live == MODELS
    for ref in refs:
        record = await check_synced(store, etcd, keys, ref)
        assert record.aliases["live"].version == "1", "who runs it again takes up the number that was begun"
        assert await Library(store).list_versions(ref) == ["1"]
