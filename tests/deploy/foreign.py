"""Schemas of the custom resources in the overlay `prod`, with only the fields that it uses.

Kubernetes' own schemas do not contain them, and Kubernetes silently drops an unknown field of a custom resource. The
sources are the definitions of the Prometheus operator 0.80 (`monitoring.coreos.com/v1`) and of KEDA 2.16
(`keda.sh/v1alpha1`). To use another field, look it up there and add it here.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Duration = Annotated[str, Meta(pattern=r"^\d+(ms|s|m|h)$")]


class _Strict(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    pass


class Metadata(_Strict):
    name: str
    namespace: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Selector(_Strict):
    match_labels: dict[str, str]


class Endpoint(_Strict):
    """`port` is a name. A number would be `portNumber`."""

    port: str
    path: str
    interval: Duration


class MonitorSpec(_Strict):
    selector: Selector
    pod_metrics_endpoints: Annotated[list[Endpoint], Meta(min_length=1)]


class PodMonitor(_Strict):
    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: MonitorSpec


class RuleSpec(_Strict):
    """promtool checks the groups."""

    groups: Annotated[list[dict[str, Any]], Meta(min_length=1)]


class PrometheusRule(_Strict):
    api_version: Literal["monitoring.coreos.com/v1"]
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: RuleSpec


class Target(_Strict):
    api_version: str
    kind: str
    name: str


class AutoscalerConfig(_Strict):
    """`behavior` has the form of a HorizontalPodAutoscaler's field of that name."""

    behavior: dict[str, Any]


class Advanced(_Strict):
    horizontal_pod_autoscaler_config: AutoscalerConfig


class PrometheusQuery(_Strict):
    """All values are strings, even numbers."""

    server_address: str
    query: str
    threshold: Annotated[str, Meta(pattern=r"^\d+(\.\d+)?$")]
    ignore_null_values: Literal["true", "false"] = "true"


class Trigger(_Strict):
    type: Literal["prometheus"]
    metric_type: Literal["AverageValue", "Value"]
    metadata: PrometheusQuery


class ScaledObjectSpec(_Strict):
    """Times are seconds."""

    scale_target_ref: Target
    min_replica_count: int
    max_replica_count: int
    polling_interval: int
    advanced: Advanced
    triggers: Annotated[list[Trigger], Meta(min_length=1)]


class ScaledObject(_Strict):
    api_version: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


KINDS = {
    "monitoring.coreos.com/v1 PodMonitor": PodMonitor,
    "monitoring.coreos.com/v1 PrometheusRule": PrometheusRule,
    "keda.sh/v1alpha1 ScaledObject": ScaledObject,
}


def validate(resource: dict[str, Any]) -> None:
    """Check a custom resource against its schema.

    Raises:
        msgspec.ValidationError: a field is wrong or unknown.
        KeyError: there is no schema of this kind.
    """
    msgspec.convert(resource, KINDS[f"{resource['apiVersion']} {resource['kind']}"])
