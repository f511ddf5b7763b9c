"""The standard `grpc.health.v1.Health` service, as raw methods of a front.

It answers for "" (the server) and for the services that it's made for, all alike; an unknown service is NOT_FOUND on
Check and SERVICE_UNKNOWN on Watch, as the protocol says.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from registry.errors import InvalidRequestError
from registry.failure import Code, Failure
from registry.front import Call, Method

_PATH = "/grpc.health.v1.Health"


class Health:
    """`ready`: whether this server wants traffic."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = {"", *services}
        self._watchers: set[Call] = set()
        self._unknown: set[Call] = set()  # those that watch a service which isn't here
        self.ready = False

    def methods(self) -> list[Method]:
        """What a front has to serve."""
        return [Method(f"{_PATH}/Check", self._check), Method(f"{_PATH}/Watch", self._watch, streaming=True)]

    def set_ready(self, ready: bool) -> None:
        """Tell probes and load balancers; those that watch are told at once."""
        changed, self.ready = ready != self.ready, ready
        if changed:
            for call in self._watchers:
                call.respond(self._status())

    def end_watches(self) -> None:
        """Finish the streams of those that watch; before a server waits for its running calls to end."""
        watchers, self._watchers, self._unknown = self._watchers | self._unknown, set(), set()
        for call in watchers:
            call.end()

    def _status(self) -> bytes:
        status = HealthCheckResponse.SERVING if self.ready else HealthCheckResponse.NOT_SERVING
        return bytes(HealthCheckResponse(status=status).SerializeToString())

    def _check(self, call: Call) -> None:
        if _service(call) in self._services:
            call.respond(self._status())
        else:
            call.fail(Failure(Code.NOT_FOUND, "this server doesn't have that service", "UNKNOWN_SERVICE"))

    def _watch(self, call: Call) -> None:
        known = _service(call) in self._services
        watchers = self._watchers if known else self._unknown
        watchers.add(call)
        call.on_cancel = lambda: watchers.discard(call)
        unknown = HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        call.respond(self._status() if known else unknown.SerializeToString())


def _service(call: Call) -> str:
    try:
        return str(HealthCheckRequest.FromString(call.payload).service)
    except DecodeError as error:
        raise InvalidRequestError("the bytes are not a HealthCheckRequest") from error
