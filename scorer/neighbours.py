"""The other scorers of the cluster: who they are, what they have in memory, and giving it to them.

Contract: nobody is waited for longer than the caller says; one that fails or is silent counts as one that has nothing,
and is named in the log. All lists of one round together have at most about `_MODELS` models, the hottest of each
member, so that a round costs the same in a small and in a large cluster. What takes more than a moment is done on
another thread: this one scores.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from registry.errors import ScoreMeshError
from registry.failure import Code
from registry.member_fold import MembersView
from registry.model import Member, MemberState, ModelRef
from registry.rollout.loadable import loadable, version_of
from registry.rollout.scorers import LIST_RESIDENT, PREPARE, Answered, ScorerCalls
from scoremesh.scorer.v1 import scorer_pb2 as pb
from scorer.inheritance import Held

_MODELS = 8192
_LEAST_MODELS = 32
_PIECE = 16
_SERVING = (MemberState.READY, MemberState.LEAVING, MemberState.DRAINING)
_NO_MORE = (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)
_log = logging.getLogger(__name__)


class Neighbours:
    """See the module. `me`: the id of this scorer. `view`: the members as they were seen last."""

    def __init__(self, calls: ScorerCalls, me: str) -> None:
        self._calls, self.me = calls, me
        self.view = MembersView(0, 0, MappingProxyType({}))

    @property
    def others(self) -> Mapping[str, Member]:
        """Those that serve, but me."""
        members = self.view.members.values()
        return {member.id: member for member in members if member.id != self.me and member.state in _SERVING}

    async def resident_lists(self, timeout_s: float) -> list[list[Held]]:
        """What each of the others has in memory."""
        others = self.others
        limit = max(_LEAST_MODELS, _MODELS // max(1, len(others)))
        try:
            return await asyncio.gather(*(self._list(member, limit, timeout_s) for member in others.values()))
        finally:
            await self._calls.prune(())  # It's rare, and connections of all to all would be many.

    async def _list(self, member: Member, limit: int, timeout_s: float) -> list[Held]:
        request = pb.ListResidentRequest(limit=limit)
        reply = await self._calls.ask_member(member, LIST_RESIDENT, request, timeout_s)
        if isinstance(reply, Answered):
            return await asyncio.to_thread(lambda: list(_held(reply.answer.models)))
        _log.warning("member %s doesn't say what it has in memory: %s", member.id, type(reply).__name__)
        return []

    async def give(self, member: Member, models: Sequence[Held], timeout_s: float) -> int:
        """Have a member load models, in their order, until it has no room for more. Returns how many it has then."""
        given = 0
        for first in range(0, len(models), _PIECE):
            request = pb.PrepareRequest(preparations=[_handover(held) for held in models[first : first + _PIECE]])
            reply = await self._calls.ask_member(member, PREPARE, request, timeout_s)
            if not isinstance(reply, Answered):
                _log.warning("member %s takes nothing over: %s", member.id, type(reply).__name__)
                break
            codes = [prepared.code for prepared in reply.answer.prepared]
            given += codes.count(0)
            if any(code in _NO_MORE for code in codes):
                break
        return given


def _held(models: Iterable[pb.ResidentModel]) -> Iterable[Held]:
    for model in models:
        try:
            yield Held(ModelRef(model.tenant, model.model), version_of(model.version), model.demand)
        except ScoreMeshError:
            _log.debug("%s/%s needs an engine that this scorer hasn't", model.tenant, model.model)


def _handover(held: Held) -> pb.Preparation:
    return pb.Preparation(load=[loadable(held.version, held.ref.model)], handover=True)
