"""Loading new versions wherever the old ones are in memory, before an alias is moved.

Contract: when `prepare` returns, each member that had one of the old packages in memory has all the new versions, and
keeps them for a while. A member that couldn't load them, that went away while it was at it (the model may be what
killed it), or that was silent, though etcd still announces it, prevents the move. One whose address refuses
connections, that says it is shutting down, or whom etcd no longer announces, is skipped: nobody asks it for scores.

A model can become resident on a further scorer while the others load. So the members are asked until a round finds the
same of them with the old package as the round before, which loads nothing new and takes a millisecond or two. What
remains is a scorer that loads the old version between that last round and the arrival of the alias's move: the first
request after the move is cold there, as the one before it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from registry.errors import DrainingError, NotPreparedError
from registry.model import Member, ModelRef, ModelVersion
from registry.rollout.loadable import loadable
from registry.rollout.scorers import PREPARE, Answered, Failed, Reply, ScorerCalls, TimedOut, Unreachable
from scoremesh.scorer.v1 import scorer_pb2 as pb

_log = logging.getLogger(__name__)
_MAX_ROUNDS = 4
_OVERRIDE = "`--unprepared` moves the alias without waiting, and lets first requests be cold"


class Preparation(NamedTuple):
    """What to load for one model, and where."""

    ref: ModelRef
    old: Sequence[ModelVersion]
    new: Sequence[ModelVersion]


class Preparer:
    """See the module. `timeout_s`: for each member's answer to one request. Holds no task of its own."""

    def __init__(self, calls: ScorerCalls, timeout_s: float = 30.0) -> None:
        self._calls = calls
        self._timeout_s = timeout_s

    async def prepare(self, ref: ModelRef, old: Sequence[ModelVersion], new: Sequence[ModelVersion]) -> None:
        """Prepare one model; a `registry.alias_moves.Prepare`.

        Raises:
            NotPreparedError: a member failed; the text says which and why.
            EtcdUnavailableError: who is alive can't be told.
        """
        for text in (await self.prepare_many([Preparation(ref, old, new)])).values():
            raise NotPreparedError(text)

    async def prepare_many(self, preparations: Sequence[Preparation]) -> dict[ModelRef, str]:
        """Prepare several models by one request to each member. Returns why, for each one that isn't prepared; a
        member that doesn't answer leaves all of them unprepared. Raises EtcdUnavailableError.
        """
        if not preparations:
            return {}
        request = pb.PrepareRequest(preparations=[_message(preparation) for preparation in preparations])
        refs = [preparation.ref for preparation in preparations]
        before: set[tuple[str, ModelRef]] = set()
        for _ in range(_MAX_ROUNDS):
            replies = await self._ask(request)
            failures = _failures(refs, replies)
            having = _having(refs, replies)
            if having <= before or len(failures) == len(refs):
                break
            before = having
        return failures

    async def _ask(self, request: pb.PrepareRequest) -> list[Reply[pb.PrepareResponse]]:
        """One round; without the replies of members that nobody can ask any more."""
        replies = await self._calls.ask(PREPARE, request, self._timeout_s)
        silent = any(isinstance(reply, TimedOut | Unreachable) for reply in replies)
        announced = {member.id for member in await self._calls.members()} if silent else set()
        gone = [reply for reply in replies if _is_gone(reply, announced)]
        for reply in gone:
            _log.warning("member %s takes no requests any more, nothing is prepared there", reply.member.id)
        return [reply for reply in replies if reply not in gone]


def _is_gone(reply: Reply[pb.PrepareResponse], announced: set[str]) -> bool:
    """Whether nobody asks the member for scores any more. One that is announced anew, with another incarnation, may be
    the same process, which only lost its lease.
    """
    if isinstance(reply, Failed):
        return reply.reason == DrainingError.reason
    if isinstance(reply, Answered):
        return False
    refused = isinstance(reply, Unreachable) and reply.refused
    return refused or reply.member.id not in announced


def _having(refs: Sequence[ModelRef], replies: Sequence[Reply[pb.PrepareResponse]]) -> set[tuple[str, ModelRef]]:
    """Which member has which model in memory."""
    found: set[tuple[str, ModelRef]] = set()
    for reply in replies:
        if isinstance(reply, Answered):
            pairs = zip(refs, reply.answer.prepared, strict=False)
            found |= {(reply.member.id, ref) for ref, prepared in pairs if not prepared.not_resident}
    return found


def _failures(refs: Sequence[ModelRef], replies: Sequence[Reply[pb.PrepareResponse]]) -> dict[ModelRef, str]:
    """The first failure of each model."""
    found: dict[ModelRef, str] = {}
    for reply in replies:
        for ref, text in _failures_of(refs, reply).items():
            found.setdefault(ref, f"model {ref}: {text}; nothing was moved")
    return found


def _failures_of(refs: Sequence[ModelRef], reply: Reply[pb.PrepareResponse]) -> dict[ModelRef, str]:
    match reply:
        case Answered(member, answer) if len(answer.prepared) == len(refs):
            pairs = zip(refs, answer.prepared, strict=True)
            return {ref: f"{_name(member)} couldn't load it: {it.message}" for ref, it in pairs if it.code}
        case Answered(member):
            text = f"{_name(member)} answered for {len(reply.answer.prepared)} of {len(refs)} models"
        case Failed(member, _, details):
            text = f"{_name(member)} failed to load it: {details}"
        case Unreachable(member):
            text = f"{_name(member)} can't be reached, though etcd announces it; {_OVERRIDE}"
        case TimedOut(member, timeout_s):
            text = f"{_name(member)} didn't load it within {timeout_s:g} s; {_OVERRIDE}"
    return dict.fromkeys(refs, text)


def _name(member: Member) -> str:
    return f"member {member.id} at {member.address}"


def _message(preparation: Preparation) -> pb.Preparation:
    return pb.Preparation(
        where_resident=sorted({version.package for version in preparation.old}),
        load=[loadable(version, preparation.ref.model) for version in preparation.new],
    )
