"""Opening stores by URL: what is one, what isn't, and which settings the clouds' stores take from the environment."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import pytest

from registry.errors import InvalidRequestError, StoreUnavailableError
from registry.store_urls import open_store

_SECRET = "!!not base64"  # noqa: S105


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "url",
    [
        *("", "/tmp/x", "file://", "file://elsewhere/x", "http://bucket/x", "gcs://bucket", "abfs://container/x"),
        *(
            "s3:///x",
            "gs:///x",
            "az:///x",
            "s3://bucket?colour=red",
            "gs://bucket?region=x",
            "az://container?endpoint=",
        ),
    ],
)
def test_what_is_no_store(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="store"):
        open_store(url)


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="can't create"):
        open_store(f"file://{tmp_path}/file/store")


def test_spaces_in_a_directory(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/a%20b")
    assert (tmp_path / "a b").is_dir()


@pytest.mark.parametrize("url", ["s3://bucket/a/b", "s3://bucket", "gs://bucket/a/b", "gs://bucket/"])
def test_without_settings_the_machine_says_who_it_is(url: str) -> None:
    assert open_store(url).url == url


def test_google_takes_a_service_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    account = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    assert open_store("gs://bucket/prefix").url == "gs://bucket/prefix"
    monkeypatch.delenv("GOOGLE_SERVICE_ACCOUNT")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
    assert open_store("gs://bucket/prefix").url == "gs://bucket/prefix"


@pytest.mark.parametrize(
    ("name", "value"), [("GOOGLE_SERVICE_ACCOUNT", "/no/such/file"), ("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")]
)
def test_google_with_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequestError, match=r"can't open gs://bucket: .* GOOGLE_SERVICE_ACCOUNT "):
        open_store("gs://bucket/prefix")


@pytest.mark.parametrize(
    ("name", "value"), [("", ""), ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"), ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=x")]
)
def test_azure_takes_an_account(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    if name:
        monkeypatch.setenv(name, value)
    assert open_store("az://container/prefix").url == "az://container/prefix"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0"},
        {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": _SECRET},
        {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_SAS_TOKEN": _SECRET},
    ],
)
def test_azure_with_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, settings: dict[str, str]
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING), pytest.raises(InvalidRequestError) as caught:
        open_store("az://container/prefix")
    assert "can't open az://container: a setting in the environment" in caught.value.message
    assert "AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or" in caught.value.message
    assert _SECRET not in caught.value.message + caplog.text


@pytest.mark.parametrize(
    ("url", "name", "prefix"),
    [
        ("s3://bucket/x", "AWS_ENDPOINT_URL", ""),
        ("gs://bucket/x", "GOOGLE_BASE_URL", ""),
        ("az://container/x", "AZURE_STORAGE_ENDPOINT", "/account"),
    ],
)
async def test_another_server_is_asked_with_the_same_patience(
    monkeypatch: pytest.MonkeyPatch, url: str, name: str, prefix: str
) -> None:
    """The server that the setting names fails at every try: one, and one more."""
    settings = {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "GOOGLE_SKIP_SIGNATURE": "true",
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_SKIP_SIGNATURE": "true",
    }
    for setting, value in settings.items():
        monkeypatch.setenv(setting, value)
    asked: list[bytes] = []

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(fail, "127.0.0.1", 0) as server:
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{prefix}")
        with pytest.raises(StoreUnavailableError, match="failed to read model; see the log"):
            await open_store(url, timeout_s=5, retries=1).get("model")
    assert len(asked) == 2
    assert all(line.startswith(b"GET /") and b"x/model" in line.replace(b"%2F", b"/") for line in asked)
