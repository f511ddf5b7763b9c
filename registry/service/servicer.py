"""RegistryService over gRPC: which code answers which method, and how failures become statuses.

Contract: a method of RegistryService that nothing answers is an error at the start, not at the first call. Failures are
mapped here and nowhere else. Changes that have begun go on to their end, whether their callers wait or not
(`registry.service.work`); reads and streams end with their callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from registry.service.applications import Applications
from registry.service.deletions import Deletions
from registry.service.models import Models
from registry.service.quarantine import Packages
from registry.service.rebuilds import Rebuilds
from registry.service.rollouts import Rollouts
from registry.service.tenants import Tenants
from registry.service.versions import Versions
from registry.service.work import Work
from registry.status import failure_of, status_of, trailers
from scoremesh.registry.v1 import registry_pb2 as pb

SERVICE = "scoremesh.registry.v1.RegistryService"
# The text travels twice in the trailers, and gRPC clients take 8 KiB of those.
_MAX_TEXT = 1500
_Context = grpc.aio.ServicerContext[Any, Any]
_Read = Callable[[Any], Awaitable[Message]]
_Change = Callable[[Any], Coroutine[Any, Any, Message]]
_Stream = Callable[[Any], AsyncIterator[Message]]


class Servicer:
    """Answers calls by the parts that it's made of. `default_publisher`: noted in manifests for callers without a
    certificate.
    """

    def __init__(
        self,
        *,
        versions: Versions,
        models: Models,
        rollouts: Rollouts,
        tenants: Tenants,
        applications: Applications,
        packages: Packages,
        deletions: Deletions,
        rebuilds: Rebuilds,
        work: Work,
        default_publisher: str = "",
    ) -> None:
        self._versions = versions
        self._work = work
        self._default_publisher = default_publisher
        self._reads: Mapping[str, _Read] = {
            "GetVersion": versions.get,
            "ListVersions": versions.list,
            "GetModel": models.get,
            "ListModels": models.list,
            "GetRollout": rollouts.get,
            "GetTenant": tenants.get,
            "ListTenants": tenants.list,
            "GetApplication": applications.get,
            "ListApplications": applications.list,
            "ListQuarantine": packages.list,
        }
        self._changes: Mapping[str, _Change] = {
            "RetireVersion": versions.retire,
            "DeleteVersion": deletions.version,
            "DeleteModel": deletions.model,
            "DeleteTenant": deletions.tenant,
            "SetAlias": models.set_alias,
            "RemoveAlias": models.remove_alias,
            "RollBackAlias": models.roll_back,
            "StartRollout": rollouts.start,
            "EndRollout": rollouts.end,
            "CreateTenant": tenants.create,
            "UpdateTenant": tenants.update,
            "SetApplication": applications.set,
            "DeleteApplication": applications.delete,
            "LiftQuarantine": packages.lift,
        }
        self._streams: Mapping[str, _Stream] = {"RolloutBulk": rollouts.bulk, "Rebuild": rebuilds.run}

    def handler(self) -> grpc.GenericRpcHandler:
        """All methods of the service, for a `grpc.aio` server. Raises KeyError where one isn't answered."""
        methods = pb.DESCRIPTOR.services_by_name["RegistryService"].methods
        return grpc.method_handlers_generic_handler(SERVICE, {each.name: self._method(each) for each in methods})

    def _method(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        read, write = (
            GetMessageClass(method.input_type).FromString,
            GetMessageClass(method.output_type).SerializeToString,
        )
        if method.name == "PublishVersion":
            return grpc.stream_unary_rpc_method_handler(self._publish, read, write)
        if method.name in self._streams:
            return grpc.unary_stream_rpc_method_handler(_streamed(self._streams[method.name]), read, write)
        if method.name in self._reads:
            return grpc.unary_unary_rpc_method_handler(_unary(self._reads[method.name]), read, write)
        return grpc.unary_unary_rpc_method_handler(_unary(self._to_the_end(self._changes[method.name])), read, write)

    def _to_the_end(self, change: _Change) -> _Read:
        return lambda request: self._work.finish(change(request))

    async def _publish(self, messages: AsyncIterator[pb.PublishVersionRequest], context: _Context) -> Message:
        try:
            return await self._versions.publish(aiter(messages), common_name(context) or self._default_publisher)
        except Exception as error:
            await _abort(context, error)


def _unary(method: _Read) -> Callable[[Message, _Context], Awaitable[Message]]:
    async def run(request: Message, context: _Context) -> Message:
        try:
            return await method(request)
        except Exception as error:
            await _abort(context, error)

    return run


def _streamed(method: _Stream) -> Callable[[Message, _Context], AsyncIterator[Message]]:
    async def run(request: Message, context: _Context) -> AsyncIterator[Message]:
        try:
            async for message in method(request):
                yield message
        except Exception as error:
            await _abort(context, error)

    return run


async def _abort(context: _Context, error: Exception) -> NoReturn:
    failure = failure_of(error)
    if len(failure.message) > _MAX_TEXT:
        failure = failure._replace(message=f"{failure.message[:_MAX_TEXT]} ...")
    await context.abort(status_of(failure.code), failure.message, trailers(failure))
    raise asyncio.CancelledError  # not reached: abort raises


def common_name(context: _Context) -> str:
    """What the caller's certificate says that he is called; empty without one."""
    names = (context.auth_context() or {}).get("x509_common_name", ())
    return next((name.decode(errors="replace") for name in names), "")
