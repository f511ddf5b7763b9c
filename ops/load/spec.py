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
    """A model to ask for. `features`: how many numbers a row has. `group`: of which class of tenants it is, "" for
    all that choose no tenants.
    """

    tenant: str
    model: str
    features: int
    group: str = ""


class TenantClass(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Tenants that behave alike. `rate`: requests a second of all of them. `tenants`: those whose name is like this, as
    file names are in a shell ("acme", "t-00*"); "" for the models of the group of this name and of none. `zipf`:
    exponent of the popularity of their models. `churn_s`: so often `churn_models` of those hardly asked for become the
    most popular ones; 0 for never. `from_s`, `until_s`: when they send, seconds after the warm-up's begin; 0 for the
    end.
    """

    name: str
    rate: float
    tenants: str = ""
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


class Tls(msgspec.Struct, frozen=True):
    """PEM files: whom to trust, "" for those that the machine trusts; and the caller's own certificate, "" for none."""

    ca: str = ""
    cert: str = ""
    key: str = ""


class Oip(msgspec.Struct, frozen=True):
    """What servers of the Open Inference Protocol may want otherwise: the input tensor's name and type (FP32 or FP64),
    and the version of the models, "" for the server's choice.
    """

    tensor: str = "input-0"
    datatype: str = "FP32"
    version: str = ""


class LoadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `addresses`: host:port of the servers, taken in turn. `duration_s`: without the warm-up.
    `deadline_s`: of each request, from when it was due. `batch`: requests in a call of the target `batch`,
    1 for others. `connections`: of each process to each address. `trace`: a file of arrivals to be replayed instead of
    drawn ones; see `ops.load.trace`. `tls`: None for plain text. `headers`: names and values; see `ops.load.headers`.
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
    tls: Tls | None = None
    oip: Oip = Oip()
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def total_s(self) -> float:
        """With the warm-up."""
        return self.warm_up_s + self.duration_s
