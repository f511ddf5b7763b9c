"""What is to be sent, as one value that every sending process gets.

Contract: the same `LoadSpec` and seed give the same requests at the same times, whatever the server does: arrivals
never wait for answers.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Target(StrEnum):
    """What is called. `score`, `batch`: our API, one request or several in a call. `client`: our Python client.
    `oip`: Open Inference Protocol v2, which MLServer, Triton and KServe speak (and Ray Serve with a proto of theirs).
    """

    SCORE = "score"
    BATCH = "batch"
    CLIENT = "client"
    OIP = "oip"


class Pattern(StrEnum):
    """Which model a request asks for. `zipf`: few are popular. `cycle`: one after the other, as a tenant does that
    walks through all its models.
    """

    ZIPF = "zipf"
    CYCLE = "cycle"


class LoadModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model to ask for. `features`: how many numbers a row has. `group`: of which class of tenants it is, "" for the
    only one.
    """

    tenant: str
    model: str
    features: int
    group: str = ""


class TenantClass(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Tenants that behave alike. `rate`: requests a second of all of them. `zipf`: exponent of the popularity of their
    models. `churn_s`: so often `churn_models` of them trade their popularity with others; 0 for never. `from_s`,
    `until_s`: when they send, seconds after the warm-up's begin; 0 for the end.
    """

    name: str
    rate: float
    pattern: Pattern = Pattern.ZIPF
    zipf: float = 1.0
    churn_s: float = 0.0
    churn_models: int = 0
    from_s: float = 0.0
    until_s: float = 0.0


class RowShare(msgspec.Struct, frozen=True):
    """So many of all requests have so many rows."""

    rows: int
    share: float


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `addresses`: host:port of the servers, taken in turn. `duration_s`: without the warm-up.
    `deadline_s`: of each request, from when it was due. `batch`: requests in a call of the target `batch`,
    1 for others. `connections`: of each process to each address. `trace`: a file of arrivals to be replayed instead of
    drawn ones; see `ops.load.trace`.
    """

    target: Target
    addresses: tuple[str, ...]
    models: tuple[LoadModel, ...]
    classes: tuple[TenantClass, ...]
    rows: tuple[RowShare, ...] = (RowShare(1, 1.0),)
    duration_s: float = 10.0
    warm_up_s: float = 2.0
    deadline_s: float = 5.0
    batch: int = 1
    connections: int = 1
    processes: int = 1
    seed: int = 1
    trace: str = ""

    @property
    def rate(self) -> float:
        """Requests a second of all classes."""
        return sum(each.rate for each in self.classes)

    @property
    def total_s(self) -> float:
        """With the warm-up."""
        return self.warm_up_s + self.duration_s
