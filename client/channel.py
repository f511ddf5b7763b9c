"""How a client reaches the routers: the gRPC target and the channel's options. Pure; opens nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_address

_SERVICE_NAME = "scoremesh"
_MEBIBYTE = 1024 * 1024
_MESSAGE_LIMIT_BYTES = 64 * _MEBIBYTE

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "scoremesh.scoring.v1.ScoringService"}],
            # UNAVAILABLE alone says that another router may do better. A full queue must not be asked again at once.
            # The deadline of the call covers all attempts.
            "retryPolicy": {
                "maxAttempts": 3,
                # A lost connection is made anew after 0.1 s at the earliest: the last attempt must come after that.
                "initialBackoff": "0.06s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # Each failure takes a token, each success gives a quarter back; under half, nothing is retried. So retries make an
    # outage heavier for a moment only, and are a fifth of the traffic at most, as routers have it. What one router of
    # several had in flight when it stopped fails in one moment and must still be retried: hence 500 failures, the most
    # that gRPC allows. All channels of a process to the same routers share the tokens.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.25},
}

_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # Larger requests would be sent once only: the default buffer for a second attempt is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", 16 * _MEBIBYTE),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT_BYTES),
    # Finds a router that is stopped, or whose host vanished, in 1.25 s. Sooner, one that has no processor for a moment
    # would lose its connections, and have them made anew, just when it's overloaded. Pings go out only while calls wait
    # for an answer, and at most two without sending anything else, so a server's limit on pings isn't met.
    ("grpc.keepalive_time_ms", 250),
    ("grpc.keepalive_timeout_ms", 1_000),
    # The same for the pings by which gRPC sizes its windows. Only one ping may be under way, so one of those that is
    # never answered keeps back ours, and the default would wait a minute for it.
    ("grpc.http2.ping_timeout_ms", 1_000),
    # How long the first attempt to connect may take. The default, 20 s, would be spent on a stopped worker of a router,
    # for which the kernel accepts connections, while others share its port.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # The default grows to two minutes, too long for a router that is back after a restart.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def channel_options(
    addresses: str | Sequence[str], *, secure: bool, server_name: str | None
) -> list[tuple[str, str | int]]:
    """The options of the channel. `server_name`: the name that the routers' TLS certificate must carry; None means the
    host in the address.

    Raises:
        ValueError: several addresses with TLS but without a server name.
    """
    if server_name is not None:
        return [*_OPTIONS, ("grpc.ssl_target_name_override", server_name)]
    if isinstance(addresses, str) or len(addresses) == 1:
        return [*_OPTIONS]
    if secure:
        raise ValueError("several addresses with TLS need server_name, the name in the routers' certificate")
    # gRPC would send the whole list as :authority, and a strict HTTP/2 server resets such a stream as malformed.
    return [*_OPTIONS, ("grpc.default_authority", _SERVICE_NAME)]


def channel_target(addresses: str | Sequence[str]) -> str:
    """The gRPC target for one address (any target that gRPC knows) or several (IP address and port each).

    Raises:
        ValueError: no address, or several that aren't IP addresses of one family. gRPC takes a list of addresses but
            not a list of names; one DNS name may stand for all routers instead.
    """
    if isinstance(addresses, str):
        return addresses
    if len(addresses) == 1:
        return addresses[0]
    versions = {_ip_version(address) for address in addresses}
    if len(versions) != 1:
        raise ValueError(f"wanted one address, or several of one family (IPv4 or IPv6), not {list(addresses)}")
    return f"ipv{versions.pop()}:{','.join(addresses)}"


def _ip_version(address: str) -> int:
    host, _, _ = address.rpartition(":")
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).version
    except ValueError as error:
        raise ValueError(
            f"{address!r} is not an IP address and a port; give several routers by IP address, or one DNS name for all"
        ) from error
