"""Any history of changes of a model's record: it stays whole, is repeated without harm, and refuses what it must.

The model beside it is plain: dictionaries of aliases, of what they meant before, and of what runs beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from registry.change import (
    Checked,
    UncheckedError,
    begin_rollout,
    delete_model,
    delete_version,
    end_rollout,
    point,
    pointers,
    published,
    remove_alias,
    retire,
    roll_back_target,
)
from registry.errors import ConflictError, InvalidRequestError, ModelInUseError, ModelNotFoundError, ScoreMeshError
from registry.library import index_of
from registry.manifest import AliasRecord, RolloutSpec
from registry.model import ModelRef, ModelVersion, Runtime
from registry.next_record import (
    ANY,
    EMPTY,
    MOST_ALIASES,
    REQUESTS_KEPT,
    Change,
    Condition,
    next_record,
    publication,
    published_version,
)

REF = ModelRef("acme", "fraud")
ALIASES = st.sampled_from(["live", "old"])
NAMES = st.sampled_from(["1", "2", "3", "4"])
BOOLS = st.booleans()


def version(name: str) -> ModelVersion:
    return ModelVersion(name, f"package-{name}", "acme", name * 64, "0" * 64, Runtime.ONNX, 1, 1)


@dataclass
class Plain:
    """What the record should say. `rollouts`: alias to (id, canary, shadow)."""

    aliases: dict[str, str] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    rollouts: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    gone: bool = False

    def move(self, alias: str, to: str) -> None:
        if self.aliases.get(alias) == to:
            return
        if alias in self.aliases:
            self.before[alias] = self.aliases[alias]
        self.aliases[alias] = to
        self.rollouts.pop(alias, None)

    def users(self, name: str) -> set[str]:
        found = {f"alias {alias}" for alias, at in self.aliases.items() if at == name}
        for alias, (_, canary, shadow) in self.rollouts.items():
            found |= {f"canary of alias {alias}"} if canary == name else set()
            found |= {f"shadow of alias {alias}"} if shadow == name else set()
        return found

    def forget_before(self, name: str) -> None:
        self.before = {alias: at for alias, at in self.before.items() if at != name}

    def refusal(self, name: str) -> type[ScoreMeshError] | None:
        """How pointing at a version is refused."""
        if name in self.deleted:
            return ModelNotFoundError
        return ModelInUseError if name in self.retired else None


class Changes(RuleBasedStateMachine):
    """Each rule makes one change of the record and of the plain model, or sees it refused by both."""

    def __init__(self) -> None:
        super().__init__()
        self.record = EMPTY
        self.plain = Plain()
        self.made: list[tuple[Condition, Change]] = []
        self.numbers = 0

    def make(
        self, change: Change, refused: type[ScoreMeshError] | None, *, named: bool = False, what: str = "it"
    ) -> bool:
        """Make a change, with a request id where `named`; True where it was made and not refused. A refusal leaves
        nothing behind, and neither does a revision that isn't the one that holds, unless nothing is to be done.
        """
        self.numbers += 1
        request_id = f"r{self.numbers}" if named else ""
        condition = Condition(request_id, self.record.revision, what)
        stale = condition._replace(revision=self.record.revision + 1)
        if refused is None and next_record(self.record, change, ANY, now="", nonce="") is self.record:
            assert next_record(self.record, change, stale, now="", nonce="") is self.record
        else:
            with pytest.raises(ConflictError, match="the model changed"):
                next_record(self.record, change, stale, now="", nonce="")
        if refused is not None:
            with pytest.raises(refused):
                next_record(self.record, change, condition, now="", nonce="")
            return False
        after = next_record(self.record, change, condition, now=f"t{self.numbers}", nonce=f"n{self.numbers}")
        self.follow(after)
        if named and any(known == request_id for known, _ in after.requests):
            self.made.append((condition, change))
        return True

    def follow(self, after: AliasRecord) -> None:
        before, self.record = self.record, after
        if after is before:
            return
        assert (after.revision, after.previous) == (before.revision + 1, before.revision)
        assert (after.created_at, after.nonce) == (f"t{self.numbers}", f"n{self.numbers}")

    @rule(name=NAMES, aliases=st.lists(ALIASES, max_size=3, unique=True), named=BOOLS)
    def publish(self, name: str, aliases: list[str], named: bool) -> None:
        plain, targets = self.plain, dict.fromkeys(aliases, name)
        is_there = bool(aliases) and all(plain.aliases.get(alias) == name for alias in aliases)
        noop = is_there and not named and self.record.contract == "c"
        refused: type[ScoreMeshError] | None = ConflictError if name in plain.deleted else None
        if refused is None and aliases and any(plain.aliases.get(alias) != name for alias in aliases):
            refused = plain.refusal(name)
        request_id = f"r{self.numbers + 1}" if named else ""
        change = published(REF, version(name), aliases, request_id, contract="c")
        if self.make(change, refused, named=named, what=publication(name, aliases)) and not noop:
            plain.gone = False
            for alias, to in targets.items():
                plain.move(alias, to)
            assert self.record.contract == "c"
            assert not named or published_version(self.record, request_id) == name

    @rule(name=NAMES, alias=ALIASES, expected=st.none() | NAMES | st.just(""), named=BOOLS)
    def move(self, name: str, alias: str, expected: str | None, named: bool) -> None:
        plain, refused = self.plain, None
        if plain.aliases.get(alias) != name:
            stale = expected is not None and plain.aliases.get(alias, "") != expected
            refused = ConflictError if stale else plain.refusal(name)
        change = point(REF, {alias: version(name)}, None if expected is None else {alias: expected})
        if self.make(change, refused, named=named):
            plain.gone = False
            plain.move(alias, name)

    @rule(first=ALIASES, second=ALIASES, names=st.tuples(NAMES, NAMES))
    def move_two(self, first: str, second: str, names: tuple[str, str]) -> None:
        """All or nothing."""
        targets = {first: names[0], second: names[1]}
        refusals = [
            self.plain.refusal(name) for alias, name in targets.items() if self.plain.aliases.get(alias) != name
        ]
        refused = next((refusal for refusal in refusals if refusal is not None), None)
        if self.make(point(REF, {alias: version(name) for alias, name in targets.items()}), refused):
            self.plain.gone = False
            for alias, name in targets.items():
                self.plain.move(alias, name)

    @rule(alias=ALIASES)
    def roll_back(self, alias: str) -> None:
        """Twice comes back."""
        if alias not in self.plain.before:
            with pytest.raises(ModelNotFoundError):
                roll_back_target(REF, self.record, alias)
            return
        at, to = self.plain.aliases[alias], self.plain.before[alias]
        assert roll_back_target(REF, self.record, alias) == to
        refused = self.plain.refusal(to) if at != to else None
        assert refused is None, "what can't be pointed at is no place to go back to"
        assert self.make(point(REF, {alias: version(to)}, {alias: at}), None)
        self.plain.move(alias, to)
        if at != to:
            assert roll_back_target(REF, self.record, alias) == at

    @rule(alias=ALIASES, expected=st.none() | NAMES, named=BOOLS)
    def remove(self, alias: str, expected: str | None, named: bool) -> None:
        at = self.plain.aliases.get(alias)
        refused = ConflictError if at is not None and expected not in (None, at) else None
        if self.make(remove_alias(REF, alias, expected), refused, named=named):
            self.plain.aliases.pop(alias, None)
            self.plain.before.pop(alias, None)
            self.plain.rollouts.pop(alias, None)

    @rule(alias=ALIASES, canary=NAMES | st.just(""), shadow=NAMES | st.just(""), expected=st.none() | NAMES)
    def begin(self, alias: str, canary: str, shadow: str, expected: str | None) -> None:
        plain, beside = self.plain, [name for name in (canary, shadow) if name]
        if not beside:
            return
        spec = RolloutSpec(id=f"id{self.numbers}", canary=canary, percent=5.0 if canary else 0.0, shadow=shadow)
        refused: type[ScoreMeshError] | None = None
        if alias not in plain.aliases:
            refused = ModelNotFoundError
        elif expected not in (None, plain.aliases[alias]):
            refused = ConflictError
        else:
            for name in dict.fromkeys(beside):
                own = InvalidRequestError if plain.aliases[alias] == name else None
                refused = refused or plain.refusal(name) or own
        change = begin_rollout(REF, alias, spec, [version(name) for name in beside], expected)
        if self.make(change, refused):
            plain.rollouts[alias] = (spec.id, canary, shadow)
            assert next_record(self.record, change, ANY, now="", nonce="") is self.record
            rollout = self.record.target(alias).rollout
            assert rollout is not None
            assert rollout.canary == (version(canary) if canary else None)
            assert rollout.shadow == (version(shadow) if shadow else None)

    @rule(alias=ALIASES, promote=BOOLS, which=st.sampled_from(["any", "this", "another"]), named=BOOLS)
    def end(self, alias: str, promote: bool, which: str, named: bool) -> None:
        running = self.plain.rollouts.get(alias)
        rollout_id = {"any": "", "this": running[0] if running else "none", "another": "another"}[which]
        refused = ModelNotFoundError if running is None and not rollout_id else None
        change = end_rollout(REF, alias, promote=promote, rollout_id=rollout_id)
        if not self.make(change, refused, named=named) or running is None or which == "another":
            return
        del self.plain.rollouts[alias]
        if promote:
            before = self.plain.aliases[alias]
            self.plain.move(alias, running[1] or running[2])
            assert roll_back_target(REF, self.record, alias) == before

    @rule(name=NAMES, deleting=BOOLS, named=BOOLS)
    def retire_or_delete(self, name: str, deleting: bool, named: bool) -> None:
        plain = self.plain
        done = name in plain.deleted or (not deleting and name in plain.retired)
        users = set() if done else plain.users(name)
        change = delete_version(REF, name) if deleting else retire(REF, name)
        if users:
            with pytest.raises(ModelInUseError) as caught:
                next_record(self.record, change, ANY, now="", nonce="")
            assert users == set(pointers(self.record, name))
            assert all(user in caught.value.message for user in users)
        elif self.make(change, None, named=named):
            plain.forget_before(name)
            if deleting and not done:
                said = f"version {name} "
                self.made = [(known, made) for known, made in self.made if not known.what.startswith(said)]
            if deleting:
                plain.retired.discard(name)
                plain.deleted.add(name)
            elif not done:
                plain.retired.add(name)

    @rule(names=st.sets(NAMES), named=BOOLS)
    def delete_all(self, names: set[str], named: bool) -> None:
        done = self.plain.gone and names <= self.plain.deleted
        assert self.make(delete_model(sorted(names)), None, named=named)
        if done:
            return
        self.made = self.made[-1:] if named else []
        self.plain = Plain(deleted=self.plain.deleted | names, gone=True)
        assert self.record.contract == self.record.application == ""

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A request that was made is known by its id, whatever was made since, among the last ones. Its id is no
        other's.
        """
        kept = {known for known, _ in self.record.requests}
        condition, change = data.draw(st.sampled_from(self.made))
        if condition.request_id in kept:
            again = condition._replace(revision=self.record.revision + 7)
            assert next_record(self.record, change, again, now="", nonce="") is self.record
            with pytest.raises(ConflictError, match=f"request id {condition.request_id} was used already: "):
                next_record(self.record, change, again._replace(what="another"), now="", nonce="")
        assert {made.request_id for made, _ in self.made[-1:]} <= kept

    @rule(alias=ALIASES, name=NAMES)
    def make_again_what_is_done(self, alias: str, name: str) -> None:
        """Also without a request id: what is so already makes no new record."""
        changes: list[Change] = [end_rollout(REF, alias, promote=True, rollout_id="over")]
        if self.plain.aliases.get(alias) == name:
            changes += [point(REF, {alias: version(name)}, {alias: "x"}), published(REF, version(name), [alias], "")]
        if alias not in self.plain.aliases:
            changes += [remove_alias(REF, alias, "x")]
        if name in self.plain.deleted:
            changes += [delete_version(REF, name), retire(REF, name)]
        if self.plain.gone:
            changes += [delete_model(self.plain.deleted)]
        for change in changes:
            assert next_record(self.record, change, ANY, now="", nonce="") is self.record

    @invariant()
    def is_as_the_plain_one(self) -> None:
        record, plain = self.record, self.plain
        assert (record.aliases, record.before) == (plain.aliases, plain.before)
        told = {alias: (spec.id, spec.canary, spec.shadow) for alias, spec in record.rollouts.items()}
        assert told == plain.rollouts
        assert (set(record.retired), set(record.deleted), record.gone) == (plain.retired, plain.deleted, plain.gone)

    @invariant()
    def is_whole(self) -> None:
        record = self.record
        used = {*record.aliases.values()}
        for alias, spec in record.rollouts.items():
            assert alias in record.aliases
            used |= {spec.canary, spec.shadow} - {""}
            assert record.aliases[alias] not in (spec.canary, spec.shadow)
        assert record.versions == {name: version(name) for name in used}
        out = {*record.retired, *record.deleted}
        assert not used & out
        assert not {*record.before.values()} & out
        assert {*record.before} <= {*record.aliases}
        assert len({*record.retired}) + len({*record.deleted}) == len(record.retired) + len(record.deleted) == len(out)
        assert not (record.gone and record.aliases)
        assert len(record.requests) <= REQUESTS_KEPT

    @invariant()
    def can_be_told_and_stored(self) -> None:
        assert msgspec.json.decode(msgspec.json.encode(self.record), type=AliasRecord) == self.record
        assert {alias: told.version for alias, told in index_of(self.record).aliases.items()} == self.plain.aliases


TestChanges = Changes.TestCase
TestChanges.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def _make(record: AliasRecord, change: Change, request_id: str = "") -> AliasRecord:
    return next_record(record, change, Condition(request_id), now="now", nonce="nonce")


def test_a_model_that_was_deleted_is_published_again_under_other_names() -> None:
    record = _make(EMPTY, published(REF, version("1"), ["live"], "a", contract="c", application="app"), "a")
    record = _make(record, delete_model(["1", "2"]), "b")
    assert record.gone
    assert record.deleted == ("1", "2")
    for name in "12":
        with pytest.raises(ConflictError, match=f"version {name} of model acme/fraud was deleted"):
            _make(record, published(REF, version(name), ["live"], ""))
    again = _make(record, published(REF, version("3"), [], "c"), "c")
    assert (again.gone, again.aliases, again.contract, again.deleted) == (False, {}, "", ("1", "2"))
    assert [known for known, _ in again.requests] == ["b", "c"]
    assert _make(again, published(REF, version("3"), ["live"], "d"), "d").aliases == {"live": "3"}


@pytest.mark.parametrize("spec", [RolloutSpec(id="r", canary="2", percent=5.0), RolloutSpec(id="r", shadow="2")])
def test_what_ran_beside_takes_over_or_ends(spec: RolloutSpec) -> None:
    record = _make(EMPTY, published(REF, version("1"), ["live"], ""))
    running = _make(record, begin_rollout(REF, "live", spec, [version("2")]))
    promoted = _make(running, end_rollout(REF, "live", promote=True))
    assert (promoted.aliases, promoted.before, promoted.rollouts) == ({"live": "2"}, {"live": "1"}, {})
    ended = _make(running, end_rollout(REF, "live", promote=False))
    assert (ended.aliases, ended.before, ended.versions) == (record.aliases, record.before, record.versions)


def test_only_the_last_requests_are_known() -> None:
    record, numbers = EMPTY, range(REQUESTS_KEPT + 1)
    changes: list[Change] = [published(REF, version(str(number % 2 + 1)), ["live"], f"r{number}") for number in numbers]
    for number in numbers:
        record = _make(record, changes[number], f"r{number}")
    assert len(record.requests) == REQUESTS_KEPT
    for number in numbers[1:]:
        assert _make(record, changes[number], f"r{number}") is record


@pytest.mark.parametrize("first", [True, False])
def test_what_a_publisher_says_of_the_model_is_kept_by_later_changes(first: bool) -> None:
    record = _make(EMPTY, published(REF, version("1"), ["live"] if first else [], "", contract="c", application="app"))
    changes: list[Callable[[], Change]] = [
        lambda: point(REF, {"live": version("2")}),
        lambda: retire(REF, "1"),
        lambda: remove_alias(REF, "live"),
        lambda: published(REF, version("3"), ["live"], ""),
    ]
    for change in changes:
        record = _make(record, change())
        assert (record.contract, record.application) == ("c", "app")


def test_a_version_is_not_announced_under_what_it_was_not_checked_against() -> None:
    record = _make(EMPTY, published(REF, version("1"), ["live"], "", Checked("", ""), contract="c"))
    for checked in (Checked("", ""), Checked("c", "app")):
        with pytest.raises(UncheckedError):
            _make(record, published(REF, version("2"), ["live"], "", checked))
    after = _make(record, published(REF, version("2"), ["live"], "", Checked("c", "")))
    assert after.aliases == {"live": "2"}
    assert _make(after, published(REF, version("2"), ["live"], "", Checked("x", ""))) is after, (
        "it is announced already"
    )


def test_what_a_publisher_could_not_tell_is_told_by_the_next_try() -> None:
    """Somebody else has pointed the alias already."""
    record = _make(EMPTY, point(REF, {"live": version("1")}))
    again = published(REF, version("1"), ["live"], "r", contract="c", application="app")
    after = _make(record, again, "r")
    assert (after.contract, after.application, [known for known, _ in after.requests]) == ("c", "app", ["r"])
    assert _make(after, again, "r") is after


def test_the_request_of_a_deleted_version_is_not_known() -> None:
    record = EMPTY
    for name in ("1", "11"):
        change, condition = (
            published(REF, version(name), [], f"r{name}"),
            Condition(f"r{name}", 0, publication(name, [])),
        )
        record = next_record(record, change, condition, now="", nonce="")
    record = _make(record, delete_version(REF, "1"))
    assert (published_version(record, "r1"), published_version(record, "r11")) == ("", "11")


def test_a_publication_is_no_other_request() -> None:
    record = next_record(EMPTY, point(REF, {"live": version("1")}), Condition("r", 0, "alias"), now="", nonce="")
    with pytest.raises(ConflictError, match="request id r was used already: alias"):
        published_version(record, "r")


def test_a_model_has_no_more_aliases_than_fit() -> None:
    names = [f"a{number}" for number in range(MOST_ALIASES)]
    record = _make(EMPTY, published(REF, version("1"), names, ""))
    with pytest.raises(InvalidRequestError, match="more than 64 aliases"):
        _make(record, point(REF, {"live": version("1")}))
    assert "a1" not in _make(record, remove_alias(REF, "a1")).aliases
