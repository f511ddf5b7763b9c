"""Reads, watch events and gaps in any order: what is held is never older than what was seen.

The model of etcd: a list of writes with ascending revisions; a read answers with the state of the moment when etcd
answers, which is between its begin and its finish; the watch delivers the writes in order, any time later.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.catalog_fold import CatalogFold, Read
from registry.model import ModelRecord, ModelRef

REFS = [ModelRef("acme", name) for name in "abc"]
Answer = tuple[int, ModelRecord | None]


@dataclass
class World:
    """Etcd, the watch that lags behind it, and the fold under test."""

    capacity: int = 2
    revision: int = 1
    truth: dict[ModelRef, Answer] = field(default_factory=dict)
    undelivered: list[tuple[ModelRef, int, ModelRecord | None]] = field(default_factory=list)
    reads: dict[ModelRef, tuple[Read, Answer | None]] = field(default_factory=dict)
    seen: dict[ModelRef, int] = field(default_factory=dict)  # newest revision seen of a model since the last gap

    def __post_init__(self) -> None:
        self.fold = CatalogFold(self.capacity)

    def write(self, ref: ModelRef, *, deleted: bool = False) -> None:
        self.revision += 1
        record = None if deleted else ModelRecord(self.revision, {})  # its number says when it was written
        self.truth[ref] = (self.revision, record)
        self.undelivered.append((ref, self.revision, record))

    def deliver(self) -> None:
        if self.undelivered:
            ref, revision, record = self.undelivered.pop(0)
            if record is None:
                self.fold.forget(ref, revision)
            else:
                self.fold.apply(ref, revision, record)
            self.seen[ref] = max(self.seen.get(ref, 0), revision)

    def step_read(self, ref: ModelRef) -> None:
        """The next step of a read of this model: begin, be answered by etcd, or finish."""
        if ref not in self.reads:
            self.reads[ref] = (self.fold.begin(ref), None)
            return
        read, answer = self.reads[ref]
        if answer is None:
            self.reads[ref] = (read, (self.revision, self.truth.get(ref, (0, None))[1]))
            return
        del self.reads[ref]
        if self.fold.finish(read, *answer) is not None and answer[1] is not None:
            self.seen[ref] = max(self.seen.get(ref, 0), answer[1].revision)

    def gap(self) -> None:
        """The watch lost its place and goes on from now."""
        self.undelivered.clear()
        self.seen.clear()
        self.fold.gap(self.revision)

    def wipe(self) -> None:
        """Etcd lost its data and counts anew; the watch notices at once or later (then by way of `gap`)."""
        self.revision = 1
        self.truth.clear()

    def check(self) -> None:
        assert len(self.fold) <= self.capacity
        for ref in self.fold.refs():
            entry = self.fold.find(ref)
            assert entry is not None
            if entry.record is not None:
                assert entry.record.revision >= self.seen.get(ref, 0)

    def settle(self) -> None:
        """Everything under way ends: reads finish, the watch catches up."""
        for ref in list(self.reads):
            while ref in self.reads:
                self.step_read(ref)
        while self.undelivered:
            self.deliver()
        self.check()

    def refresh(self) -> None:
        """What the owner does after a gap."""
        for ref in self.fold.refs():
            for _ in range(3):
                self.step_read(ref)

    def check_settled(self) -> None:
        for ref in self.fold.refs():
            entry = self.fold.find(ref)
            assert entry is not None
            assert entry.record == self.truth.get(ref, (0, None))[1]


def _interleavings(parts: dict[str, int]) -> list[str]:
    if not any(parts.values()):
        return [""]
    return [name + rest for name, left in parts.items() if left for rest in _interleavings({**parts, name: left - 1})]


def _play(order: str, deleting: int) -> World:
    world, ref, writes = World(), REFS[0], 0
    world.write(ref)
    world.undelivered.clear()
    for action in order:
        if action == "w":
            writes += 1
            world.write(ref, deleted=writes == deleting)
        elif action == "d":
            world.deliver()
        elif action == "r":
            world.step_read(ref)
        else:
            world.gap()
        world.check()
    return world


def test_every_interleaving_of_two_reads_and_three_writes() -> None:
    for order in _interleavings({"w": 3, "d": 3, "r": 6}):
        for deleting in (0, 1, 3):
            world = _play(order, deleting)
            world.settle()
            world.check_settled()


def test_every_interleaving_with_a_gap() -> None:
    for order in _interleavings({"w": 2, "d": 2, "r": 6, "g": 1}):
        world = _play(order, deleting=0)
        world.settle()
        world.refresh()
        world.check_settled()


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["write", "delete", "deliver", "read", "read", "read", "gap", "wipe"]), st.sampled_from(REFS)
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=ACTIONS, capacity=st.integers(1, 3))
def test_any_history_of_many_models_ends_at_the_truth(actions: list[tuple[str, ModelRef]], capacity: int) -> None:
    world = World(capacity)
    gaps = False
    for action, ref in actions:
        match action:
            case "write" | "delete":
                world.write(ref, deleted=action == "delete")
            case "deliver":
                world.deliver()
            case "read":
                world.step_read(ref)
            case "gap":
                world.gap()
            case _:
                world.wipe()
                world.gap()
        gaps = gaps or action in {"gap", "wipe"}
        world.check()
    world.settle()
    if gaps:
        world.refresh()
    world.check_settled()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=ACTIONS, between=ACTIONS)
def test_a_wipe_that_the_watch_notices_late_leaves_nothing_stuck(
    before: list[tuple[str, ModelRef]], between: list[tuple[str, ModelRef]]
) -> None:
    """Reads may be answered by the new etcd, or be under way from the old one, when the gap arrives."""
    world = World(3)
    for ref in REFS * 20:
        world.write(ref)
    _run_plain(world, before)
    world.wipe()
    world.undelivered.clear()
    world.seen.clear()
    for action, ref in between:
        if action == "read":
            world.step_read(ref)
        elif action == "write":
            world.write(ref)
    world.gap()
    world.write(REFS[0])
    world.settle()
    world.refresh()
    world.check_settled()


def _run_plain(world: World, actions: list[tuple[str, ModelRef]]) -> None:
    for action, ref in actions:
        if action == "write":
            world.write(ref)
        elif action == "deliver":
            world.deliver()
        elif action == "read":
            world.step_read(ref)
