from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Residency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIDENCY_UNSPECIFIED: _ClassVar[Residency]
    RESIDENCY_HIT: _ClassVar[Residency]
    RESIDENCY_DISK: _ClassVar[Residency]
    RESIDENCY_COLD: _ClassVar[Residency]
RESIDENCY_UNSPECIFIED: Residency
RESIDENCY_HIT: Residency
RESIDENCY_DISK: Residency
RESIDENCY_COLD: Residency

class ScoreRequest(_message.Message):
    __slots__ = ("tenant", "model", "version", "alias", "row_count", "dense_float", "dense_double", "string_columns", "request_id", "output_names", "entity_key", "contributions")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    DENSE_FLOAT_FIELD_NUMBER: _ClassVar[int]
    DENSE_DOUBLE_FIELD_NUMBER: _ClassVar[int]
    STRING_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NAMES_FIELD_NUMBER: _ClassVar[int]
    ENTITY_KEY_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    model: str
    version: str
    alias: str
    row_count: int
    dense_float: _containers.RepeatedScalarFieldContainer[float]
    dense_double: _containers.RepeatedScalarFieldContainer[float]
    string_columns: _containers.RepeatedCompositeFieldContainer[StringColumn]
    request_id: str
    output_names: _containers.RepeatedScalarFieldContainer[str]
    entity_key: str
    contributions: bool
    def __init__(self, tenant: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., alias: _Optional[str] = ..., row_count: _Optional[int] = ..., dense_float: _Optional[_Iterable[float]] = ..., dense_double: _Optional[_Iterable[float]] = ..., string_columns: _Optional[_Iterable[_Union[StringColumn, _Mapping]]] = ..., request_id: _Optional[str] = ..., output_names: _Optional[_Iterable[str]] = ..., entity_key: _Optional[str] = ..., contributions: _Optional[bool] = ...) -> None: ...

class StringColumn(_message.Message):
    __slots__ = ("name", "values", "dictionary", "codes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    DICTIONARY_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[str]
    dictionary: _containers.RepeatedScalarFieldContainer[str]
    codes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ..., dictionary: _Optional[_Iterable[str]] = ..., codes: _Optional[_Iterable[int]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("model_version", "outputs", "residency", "timing", "request_id", "served_by", "contributions")
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    RESIDENCY_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SERVED_BY_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    model_version: str
    outputs: _containers.RepeatedCompositeFieldContainer[Output]
    residency: Residency
    timing: Timing
    request_id: str
    served_by: str
    contributions: _containers.RepeatedCompositeFieldContainer[Contributions]
    def __init__(self, model_version: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[Output, _Mapping]]] = ..., residency: _Optional[_Union[Residency, str]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., request_id: _Optional[str] = ..., served_by: _Optional[str] = ..., contributions: _Optional[_Iterable[_Union[Contributions, _Mapping]]] = ...) -> None: ...

class Contributions(_message.Message):
    __slots__ = ("names", "values", "label")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    values: _containers.RepeatedScalarFieldContainer[float]
    label: str
    def __init__(self, names: _Optional[_Iterable[str]] = ..., values: _Optional[_Iterable[float]] = ..., label: _Optional[str] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("name", "class_probabilities", "regression", "multi_output", "ranking")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLASS_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    REGRESSION_FIELD_NUMBER: _ClassVar[int]
    MULTI_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    RANKING_FIELD_NUMBER: _ClassVar[int]
    name: str
    class_probabilities: ClassProbabilities
    regression: Regression
    multi_output: MultiOutput
    ranking: Ranking
    def __init__(self, name: _Optional[str] = ..., class_probabilities: _Optional[_Union[ClassProbabilities, _Mapping]] = ..., regression: _Optional[_Union[Regression, _Mapping]] = ..., multi_output: _Optional[_Union[MultiOutput, _Mapping]] = ..., ranking: _Optional[_Union[Ranking, _Mapping]] = ...) -> None: ...

class ClassProbabilities(_message.Message):
    __slots__ = ("labels", "probabilities")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, labels: _Optional[_Iterable[str]] = ..., probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class Regression(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class MultiOutput(_message.Message):
    __slots__ = ("names", "values")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, names: _Optional[_Iterable[str]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class Ranking(_message.Message):
    __slots__ = ("scores", "order")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    order: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., order: _Optional[_Iterable[int]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("wait_us", "fetch_us", "load_us", "score_us", "verify_us", "queue_us")
    WAIT_US_FIELD_NUMBER: _ClassVar[int]
    FETCH_US_FIELD_NUMBER: _ClassVar[int]
    LOAD_US_FIELD_NUMBER: _ClassVar[int]
    SCORE_US_FIELD_NUMBER: _ClassVar[int]
    VERIFY_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    wait_us: int
    fetch_us: int
    load_us: int
    score_us: int
    verify_us: int
    queue_us: int
    def __init__(self, wait_us: _Optional[int] = ..., fetch_us: _Optional[int] = ..., load_us: _Optional[int] = ..., score_us: _Optional[int] = ..., verify_us: _Optional[int] = ..., queue_us: _Optional[int] = ...) -> None: ...

class ScoreBatchRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ScoreRequest]
    def __init__(self, items: _Optional[_Iterable[_Union[ScoreRequest, _Mapping]]] = ...) -> None: ...

class ScoreBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ScoreResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ScoreResult, _Mapping]]] = ...) -> None: ...

class StreamScoreBatchRequest(_message.Message):
    __slots__ = ("items", "timeout_ms")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ScoreRequest]
    timeout_ms: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, items: _Optional[_Iterable[_Union[ScoreRequest, _Mapping]]] = ..., timeout_ms: _Optional[_Iterable[int]] = ...) -> None: ...

class StreamScoreBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ScoreResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ScoreResult, _Mapping]]] = ...) -> None: ...

class ScoreResult(_message.Message):
    __slots__ = ("index", "code", "message", "reason", "retry_after_ms", "response")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    index: int
    code: int
    message: str
    reason: str
    retry_after_ms: int
    response: ScoreResponse
    def __init__(self, index: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., response: _Optional[_Union[ScoreResponse, _Mapping]] = ...) -> None: ...
