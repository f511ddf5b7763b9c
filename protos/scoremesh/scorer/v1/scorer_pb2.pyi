from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LoadableVersion(_message.Message):
    __slots__ = ("version", "package", "tenant", "artifact", "schema", "runtime", "artifact_bytes", "resident_bytes", "transforms", "model")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    version: str
    package: str
    tenant: str
    artifact: str
    schema: str
    runtime: str
    artifact_bytes: int
    resident_bytes: int
    transforms: str
    model: str
    def __init__(self, version: _Optional[str] = ..., package: _Optional[str] = ..., tenant: _Optional[str] = ..., artifact: _Optional[str] = ..., schema: _Optional[str] = ..., runtime: _Optional[str] = ..., artifact_bytes: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., transforms: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("preparations",)
    PREPARATIONS_FIELD_NUMBER: _ClassVar[int]
    preparations: _containers.RepeatedCompositeFieldContainer[Preparation]
    def __init__(self, preparations: _Optional[_Iterable[_Union[Preparation, _Mapping]]] = ...) -> None: ...

class Preparation(_message.Message):
    __slots__ = ("where_resident", "load", "handover")
    WHERE_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_FIELD_NUMBER: _ClassVar[int]
    where_resident: _containers.RepeatedScalarFieldContainer[str]
    load: _containers.RepeatedCompositeFieldContainer[LoadableVersion]
    handover: bool
    def __init__(self, where_resident: _Optional[_Iterable[str]] = ..., load: _Optional[_Iterable[_Union[LoadableVersion, _Mapping]]] = ..., handover: _Optional[bool] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("prepared",)
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    prepared: _containers.RepeatedCompositeFieldContainer[Prepared]
    def __init__(self, prepared: _Optional[_Iterable[_Union[Prepared, _Mapping]]] = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ("not_resident", "code", "message")
    NOT_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    not_resident: bool
    code: int
    message: str
    def __init__(self, not_resident: _Optional[bool] = ..., code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class GetRolloutStatsRequest(_message.Message):
    __slots__ = ("rollout_ids",)
    ROLLOUT_IDS_FIELD_NUMBER: _ClassVar[int]
    rollout_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rollout_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetRolloutStatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: _containers.RepeatedCompositeFieldContainer[RolloutStats]
    def __init__(self, stats: _Optional[_Iterable[_Union[RolloutStats, _Mapping]]] = ...) -> None: ...

class RolloutStats(_message.Message):
    __slots__ = ("rollout_id", "stable", "canary", "shadow")
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    rollout_id: str
    stable: Arm
    canary: Arm
    shadow: Shadow
    def __init__(self, rollout_id: _Optional[str] = ..., stable: _Optional[_Union[Arm, _Mapping]] = ..., canary: _Optional[_Union[Arm, _Mapping]] = ..., shadow: _Optional[_Union[Shadow, _Mapping]] = ...) -> None: ...

class Arm(_message.Message):
    __slots__ = ("requests", "errors", "score_sum", "score_count", "buckets")
    class BucketsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    SCORE_SUM_FIELD_NUMBER: _ClassVar[int]
    SCORE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    requests: int
    errors: int
    score_sum: float
    score_count: int
    buckets: _containers.ScalarMap[int, int]
    def __init__(self, requests: _Optional[int] = ..., errors: _Optional[int] = ..., score_sum: _Optional[float] = ..., score_count: _Optional[int] = ..., buckets: _Optional[_Mapping[int, int]] = ...) -> None: ...

class Shadow(_message.Message):
    __slots__ = ("requests", "errors", "skipped", "abs_difference_sum", "abs_difference_max", "score_count")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    ABS_DIFFERENCE_SUM_FIELD_NUMBER: _ClassVar[int]
    ABS_DIFFERENCE_MAX_FIELD_NUMBER: _ClassVar[int]
    SCORE_COUNT_FIELD_NUMBER: _ClassVar[int]
    requests: int
    errors: int
    skipped: int
    abs_difference_sum: float
    abs_difference_max: float
    score_count: int
    def __init__(self, requests: _Optional[int] = ..., errors: _Optional[int] = ..., skipped: _Optional[int] = ..., abs_difference_sum: _Optional[float] = ..., abs_difference_max: _Optional[float] = ..., score_count: _Optional[int] = ...) -> None: ...

class PurgeRequest(_message.Message):
    __slots__ = ("tenant", "packages", "artifacts")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    ARTIFACTS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    packages: _containers.RepeatedScalarFieldContainer[str]
    artifacts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[str] = ..., packages: _Optional[_Iterable[str]] = ..., artifacts: _Optional[_Iterable[str]] = ...) -> None: ...

class PurgeResponse(_message.Message):
    __slots__ = ("resident_models", "disk_files")
    RESIDENT_MODELS_FIELD_NUMBER: _ClassVar[int]
    DISK_FILES_FIELD_NUMBER: _ClassVar[int]
    resident_models: int
    disk_files: int
    def __init__(self, resident_models: _Optional[int] = ..., disk_files: _Optional[int] = ...) -> None: ...

class ListResidentRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListResidentResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ResidentModel]
    def __init__(self, models: _Optional[_Iterable[_Union[ResidentModel, _Mapping]]] = ...) -> None: ...

class ResidentModel(_message.Message):
    __slots__ = ("version", "tenant", "model", "demand")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    version: LoadableVersion
    tenant: str
    model: str
    demand: float
    def __init__(self, version: _Optional[_Union[LoadableVersion, _Mapping]] = ..., tenant: _Optional[str] = ..., model: _Optional[str] = ..., demand: _Optional[float] = ...) -> None: ...
