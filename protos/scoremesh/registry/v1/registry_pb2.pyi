from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_STATE_UNSPECIFIED: _ClassVar[VersionState]
    VERSION_STATE_REGISTERED: _ClassVar[VersionState]
    VERSION_STATE_VALIDATED: _ClassVar[VersionState]
    VERSION_STATE_LIVE: _ClassVar[VersionState]
    VERSION_STATE_RETIRED: _ClassVar[VersionState]
VERSION_STATE_UNSPECIFIED: VersionState
VERSION_STATE_REGISTERED: VersionState
VERSION_STATE_VALIDATED: VersionState
VERSION_STATE_LIVE: VersionState
VERSION_STATE_RETIRED: VersionState

class Schema(_message.Message):
    __slots__ = ("features", "string_columns", "outputs")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    STRING_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    string_columns: _containers.RepeatedScalarFieldContainer[str]
    outputs: _containers.RepeatedCompositeFieldContainer[OutputColumn]
    def __init__(self, features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., string_columns: _Optional[_Iterable[str]] = ..., outputs: _Optional[_Iterable[_Union[OutputColumn, _Mapping]]] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("name", "dtype", "categories")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ...) -> None: ...

class OutputColumn(_message.Message):
    __slots__ = ("name", "kind", "columns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    columns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., columns: _Optional[_Iterable[str]] = ...) -> None: ...

class GoldenRows(_message.Message):
    __slots__ = ("row_count", "dense", "string_columns", "outputs", "tolerance")
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    STRING_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    row_count: int
    dense: _containers.RepeatedScalarFieldContainer[float]
    string_columns: _containers.RepeatedCompositeFieldContainer[StringColumn]
    outputs: _containers.RepeatedCompositeFieldContainer[GoldenOutput]
    tolerance: float
    def __init__(self, row_count: _Optional[int] = ..., dense: _Optional[_Iterable[float]] = ..., string_columns: _Optional[_Iterable[_Union[StringColumn, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[GoldenOutput, _Mapping]]] = ..., tolerance: _Optional[float] = ...) -> None: ...

class StringColumn(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class GoldenOutput(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("name", "state", "application", "runtime", "runtime_version", "source_sha256", "source_bytes", "artifact_sha256", "artifact_bytes", "package", "resident_bytes", "predict_us", "schema", "labels", "training", "transforms_json", "signature", "create_time", "published_by", "golden")
    class PredictUsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class TrainingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SHA256_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_SHA256_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    PREDICT_US_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMS_JSON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_BY_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: VersionState
    application: str
    runtime: str
    runtime_version: str
    source_sha256: str
    source_bytes: int
    artifact_sha256: str
    artifact_bytes: int
    package: str
    resident_bytes: int
    predict_us: _containers.ScalarMap[str, float]
    schema: Schema
    labels: _containers.ScalarMap[str, str]
    training: _containers.ScalarMap[str, str]
    transforms_json: str
    signature: str
    create_time: str
    published_by: str
    golden: GoldenRows
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[VersionState, str]] = ..., application: _Optional[str] = ..., runtime: _Optional[str] = ..., runtime_version: _Optional[str] = ..., source_sha256: _Optional[str] = ..., source_bytes: _Optional[int] = ..., artifact_sha256: _Optional[str] = ..., artifact_bytes: _Optional[int] = ..., package: _Optional[str] = ..., resident_bytes: _Optional[int] = ..., predict_us: _Optional[_Mapping[str, float]] = ..., schema: _Optional[_Union[Schema, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., training: _Optional[_Mapping[str, str]] = ..., transforms_json: _Optional[str] = ..., signature: _Optional[str] = ..., create_time: _Optional[str] = ..., published_by: _Optional[str] = ..., golden: _Optional[_Union[GoldenRows, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "application", "aliases", "rollouts", "versions", "etag")
    class AliasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    application: str
    aliases: _containers.ScalarMap[str, str]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    etag: str
    def __init__(self, name: _Optional[str] = ..., application: _Optional[str] = ..., aliases: _Optional[_Mapping[str, str]] = ..., rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ..., versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ..., etag: _Optional[str] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("id", "alias", "canary", "shadow", "percent", "guarded", "max_error_ratio", "max_drift", "min_requests", "create_time", "stable_stats", "canary_stats", "shadow_stats", "verdict")
    ID_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    CANARY_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    GUARDED_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_RATIO_FIELD_NUMBER: _ClassVar[int]
    MAX_DRIFT_FIELD_NUMBER: _ClassVar[int]
    MIN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    STABLE_STATS_FIELD_NUMBER: _ClassVar[int]
    CANARY_STATS_FIELD_NUMBER: _ClassVar[int]
    SHADOW_STATS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    id: str
    alias: str
    canary: str
    shadow: str
    percent: float
    guarded: bool
    max_error_ratio: float
    max_drift: float
    min_requests: int
    create_time: str
    stable_stats: ArmStats
    canary_stats: ArmStats
    shadow_stats: ShadowStats
    verdict: str
    def __init__(self, id: _Optional[str] = ..., alias: _Optional[str] = ..., canary: _Optional[str] = ..., shadow: _Optional[str] = ..., percent: _Optional[float] = ..., guarded: _Optional[bool] = ..., max_error_ratio: _Optional[float] = ..., max_drift: _Optional[float] = ..., min_requests: _Optional[int] = ..., create_time: _Optional[str] = ..., stable_stats: _Optional[_Union[ArmStats, _Mapping]] = ..., canary_stats: _Optional[_Union[ArmStats, _Mapping]] = ..., shadow_stats: _Optional[_Union[ShadowStats, _Mapping]] = ..., verdict: _Optional[str] = ...) -> None: ...

class ArmStats(_message.Message):
    __slots__ = ("requests", "errors", "mean_score", "drift")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    requests: int
    errors: int
    mean_score: float
    drift: float
    def __init__(self, requests: _Optional[int] = ..., errors: _Optional[int] = ..., mean_score: _Optional[float] = ..., drift: _Optional[float] = ...) -> None: ...

class ShadowStats(_message.Message):
    __slots__ = ("requests", "errors", "skipped", "mean_abs_difference", "max_abs_difference")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    MEAN_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    requests: int
    errors: int
    skipped: int
    mean_abs_difference: float
    max_abs_difference: float
    def __init__(self, requests: _Optional[int] = ..., errors: _Optional[int] = ..., skipped: _Optional[int] = ..., mean_abs_difference: _Optional[float] = ..., max_abs_difference: _Optional[float] = ...) -> None: ...

class Tenant(_message.Message):
    __slots__ = ("name", "shard_size", "requests_per_s", "concurrency", "guaranteed_bytes", "max_bytes", "premium", "create_time", "etag", "deleting", "dedicated_pool", "hedge")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHARD_SIZE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    GUARANTEED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    PREMIUM_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    DELETING_FIELD_NUMBER: _ClassVar[int]
    DEDICATED_POOL_FIELD_NUMBER: _ClassVar[int]
    HEDGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shard_size: int
    requests_per_s: float
    concurrency: int
    guaranteed_bytes: int
    max_bytes: int
    premium: bool
    create_time: str
    etag: str
    deleting: bool
    dedicated_pool: str
    hedge: bool
    def __init__(self, name: _Optional[str] = ..., shard_size: _Optional[int] = ..., requests_per_s: _Optional[float] = ..., concurrency: _Optional[int] = ..., guaranteed_bytes: _Optional[int] = ..., max_bytes: _Optional[int] = ..., premium: _Optional[bool] = ..., create_time: _Optional[str] = ..., etag: _Optional[str] = ..., deleting: _Optional[bool] = ..., dedicated_pool: _Optional[str] = ..., hedge: _Optional[bool] = ...) -> None: ...

class Application(_message.Message):
    __slots__ = ("name", "pool", "contract", "shared_model", "create_time", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SHARED_MODEL_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    pool: str
    contract: Schema
    shared_model: str
    create_time: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., pool: _Optional[str] = ..., contract: _Optional[_Union[Schema, _Mapping]] = ..., shared_model: _Optional[str] = ..., create_time: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class QuarantinedPackage(_message.Message):
    __slots__ = ("name", "reason", "by", "create_time", "expire_time", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    by: str
    create_time: str
    expire_time: str
    version: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ..., create_time: _Optional[str] = ..., expire_time: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class PublishVersionRequest(_message.Message):
    __slots__ = ("spec", "chunk")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    spec: PublishSpec
    chunk: bytes
    def __init__(self, spec: _Optional[_Union[PublishSpec, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class PublishSpec(_message.Message):
    __slots__ = ("parent", "version", "runtime", "aliases", "application", "labels", "training", "transforms_json", "signature", "golden", "allow_breaking", "request_id", "sha256")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class TrainingEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PARENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMS_JSON_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FIELD_NUMBER: _ClassVar[int]
    ALLOW_BREAKING_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    parent: str
    version: str
    runtime: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    application: str
    labels: _containers.ScalarMap[str, str]
    training: _containers.ScalarMap[str, str]
    transforms_json: str
    signature: str
    golden: GoldenRows
    allow_breaking: bool
    request_id: str
    sha256: str
    def __init__(self, parent: _Optional[str] = ..., version: _Optional[str] = ..., runtime: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., application: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., training: _Optional[_Mapping[str, str]] = ..., transforms_json: _Optional[str] = ..., signature: _Optional[str] = ..., golden: _Optional[_Union[GoldenRows, _Mapping]] = ..., allow_breaking: _Optional[bool] = ..., request_id: _Optional[str] = ..., sha256: _Optional[str] = ...) -> None: ...

class PublishVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class GetVersionRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RetireVersionRequest(_message.Message):
    __slots__ = ("name", "request_id", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class RetireVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class DeleteVersionRequest(_message.Message):
    __slots__ = ("name", "request_id", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class DeleteVersionResponse(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: Removed
    def __init__(self, removed: _Optional[_Union[Removed, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("name", "force", "etag", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    etag: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., force: _Optional[bool] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteModelResponse(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: Removed
    def __init__(self, removed: _Optional[_Union[Removed, _Mapping]] = ...) -> None: ...

class Removed(_message.Message):
    __slots__ = ("objects", "object_bytes", "index_entries", "models", "versions", "resident_models", "disk_files", "unreached_members")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEX_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_MODELS_FIELD_NUMBER: _ClassVar[int]
    DISK_FILES_FIELD_NUMBER: _ClassVar[int]
    UNREACHED_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    objects: int
    object_bytes: int
    index_entries: int
    models: int
    versions: int
    resident_models: int
    disk_files: int
    unreached_members: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, objects: _Optional[int] = ..., object_bytes: _Optional[int] = ..., index_entries: _Optional[int] = ..., models: _Optional[int] = ..., versions: _Optional[int] = ..., resident_models: _Optional[int] = ..., disk_files: _Optional[int] = ..., unreached_members: _Optional[_Iterable[str]] = ...) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("model", "alias", "version", "request_id", "etag", "expected_version", "unprepared")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    UNPREPARED_FIELD_NUMBER: _ClassVar[int]
    model: str
    alias: str
    version: str
    request_id: str
    etag: str
    expected_version: str
    unprepared: bool
    def __init__(self, model: _Optional[str] = ..., alias: _Optional[str] = ..., version: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ..., expected_version: _Optional[str] = ..., unprepared: _Optional[bool] = ...) -> None: ...

class SetAliasResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class RemoveAliasRequest(_message.Message):
    __slots__ = ("model", "alias", "request_id", "etag")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    model: str
    alias: str
    request_id: str
    etag: str
    def __init__(self, model: _Optional[str] = ..., alias: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class RemoveAliasResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class RollBackAliasRequest(_message.Message):
    __slots__ = ("model", "alias", "request_id", "etag")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    model: str
    alias: str
    request_id: str
    etag: str
    def __init__(self, model: _Optional[str] = ..., alias: _Optional[str] = ..., request_id: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class RollBackAliasResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class StartRolloutRequest(_message.Message):
    __slots__ = ("model", "rollout", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    rollout: Rollout
    request_id: str
    def __init__(self, model: _Optional[str] = ..., rollout: _Optional[_Union[Rollout, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class StartRolloutResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class GetRolloutRequest(_message.Message):
    __slots__ = ("model", "alias")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    model: str
    alias: str
    def __init__(self, model: _Optional[str] = ..., alias: _Optional[str] = ...) -> None: ...

class GetRolloutResponse(_message.Message):
    __slots__ = ("rollout",)
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    rollout: Rollout
    def __init__(self, rollout: _Optional[_Union[Rollout, _Mapping]] = ...) -> None: ...

class EndRolloutRequest(_message.Message):
    __slots__ = ("model", "alias", "promote", "request_id", "rollout_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    alias: str
    promote: bool
    request_id: str
    rollout_id: str
    def __init__(self, model: _Optional[str] = ..., alias: _Optional[str] = ..., promote: _Optional[bool] = ..., request_id: _Optional[str] = ..., rollout_id: _Optional[str] = ...) -> None: ...

class EndRolloutResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class RolloutBulkRequest(_message.Message):
    __slots__ = ("application", "tenant", "labels", "training", "alias", "version", "stages", "pause_s", "max_failed_ratio", "bulk_id", "dry_run")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    MAX_FAILED_RATIO_FIELD_NUMBER: _ClassVar[int]
    BULK_ID_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    application: str
    tenant: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    training: _containers.RepeatedScalarFieldContainer[str]
    alias: str
    version: str
    stages: _containers.RepeatedScalarFieldContainer[float]
    pause_s: float
    max_failed_ratio: float
    bulk_id: str
    dry_run: bool
    def __init__(self, application: _Optional[str] = ..., tenant: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., training: _Optional[_Iterable[str]] = ..., alias: _Optional[str] = ..., version: _Optional[str] = ..., stages: _Optional[_Iterable[float]] = ..., pause_s: _Optional[float] = ..., max_failed_ratio: _Optional[float] = ..., bulk_id: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class RolloutBulkResponse(_message.Message):
    __slots__ = ("bulk_id", "stage", "done", "failed", "total", "model", "failure")
    BULK_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    bulk_id: str
    stage: int
    done: int
    failed: int
    total: int
    model: str
    failure: str
    def __init__(self, bulk_id: _Optional[str] = ..., stage: _Optional[int] = ..., done: _Optional[int] = ..., failed: _Optional[int] = ..., total: _Optional[int] = ..., model: _Optional[str] = ..., failure: _Optional[str] = ...) -> None: ...

class CreateTenantRequest(_message.Message):
    __slots__ = ("tenant", "request_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    request_id: str
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class UpdateTenantRequest(_message.Message):
    __slots__ = ("tenant", "request_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    request_id: str
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpdateTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class GetTenantRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class ListTenantsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTenantsResponse(_message.Message):
    __slots__ = ("tenants", "next_page_token")
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenants: _containers.RepeatedCompositeFieldContainer[Tenant]
    next_page_token: str
    def __init__(self, tenants: _Optional[_Iterable[_Union[Tenant, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteTenantRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteTenantResponse(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: Removed
    def __init__(self, removed: _Optional[_Union[Removed, _Mapping]] = ...) -> None: ...

class SetApplicationRequest(_message.Message):
    __slots__ = ("application", "allow_breaking", "request_id", "check_models")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    ALLOW_BREAKING_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECK_MODELS_FIELD_NUMBER: _ClassVar[int]
    application: Application
    allow_breaking: bool
    request_id: str
    check_models: bool
    def __init__(self, application: _Optional[_Union[Application, _Mapping]] = ..., allow_breaking: _Optional[bool] = ..., request_id: _Optional[str] = ..., check_models: _Optional[bool] = ...) -> None: ...

class SetApplicationResponse(_message.Message):
    __slots__ = ("application", "breaking_models")
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    BREAKING_MODELS_FIELD_NUMBER: _ClassVar[int]
    application: Application
    breaking_models: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, application: _Optional[_Union[Application, _Mapping]] = ..., breaking_models: _Optional[_Iterable[str]] = ...) -> None: ...

class GetApplicationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetApplicationResponse(_message.Message):
    __slots__ = ("application",)
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    application: Application
    def __init__(self, application: _Optional[_Union[Application, _Mapping]] = ...) -> None: ...

class ListApplicationsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListApplicationsResponse(_message.Message):
    __slots__ = ("applications", "next_page_token")
    APPLICATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    applications: _containers.RepeatedCompositeFieldContainer[Application]
    next_page_token: str
    def __init__(self, applications: _Optional[_Iterable[_Union[Application, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteApplicationRequest(_message.Message):
    __slots__ = ("name", "etag", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteApplicationResponse(_message.Message):
    __slots__ = ("application",)
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    application: Application
    def __init__(self, application: _Optional[_Union[Application, _Mapping]] = ...) -> None: ...

class ListQuarantineRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListQuarantineResponse(_message.Message):
    __slots__ = ("packages", "next_page_token")
    PACKAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    packages: _containers.RepeatedCompositeFieldContainer[QuarantinedPackage]
    next_page_token: str
    def __init__(self, packages: _Optional[_Iterable[_Union[QuarantinedPackage, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class LiftQuarantineRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class LiftQuarantineResponse(_message.Message):
    __slots__ = ("package",)
    PACKAGE_FIELD_NUMBER: _ClassVar[int]
    package: QuarantinedPackage
    def __init__(self, package: _Optional[_Union[QuarantinedPackage, _Mapping]] = ...) -> None: ...

class RebuildRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RebuildResponse(_message.Message):
    __slots__ = ("models", "written", "removed", "failed", "model", "failure", "elapsed_s")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    models: int
    written: int
    removed: int
    failed: int
    model: str
    failure: str
    elapsed_s: float
    def __init__(self, models: _Optional[int] = ..., written: _Optional[int] = ..., removed: _Optional[int] = ..., failed: _Optional[int] = ..., model: _Optional[str] = ..., failure: _Optional[str] = ..., elapsed_s: _Optional[float] = ...) -> None: ...
