"""Kinds of others that the overlay `prod` uses, by the fields that it uses: what is not here is refused.

Kubernetes' own schemas do not know them, and Kubernetes drops a field that their definitions do not have without a
word. Held to the definitions of the Prometheus operator 0.80 (`monitoring.coreos.com/v1`) and of KEDA 2.16
(`keda.sh/v1alpha1`) when this was written. Whoever uses another field looks it up there, and adds it here.
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
    """`port` is a name: a number is `portNumber`."""

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
    """The groups are Prometheus' own: promtool looks at them."""

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
    """`behavior` is what a HorizontalPodAutoscaler has under that name."""

    behavior: dict[str, Any]


class Advanced(_Strict):
    horizontal_pod_autoscaler_config: AutoscalerConfig


class PrometheusQuery(_Strict):
    """All of them strings, numbers too."""

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


def must_be_valid(found: dict[str, Any]) -> None:
    """Raises msgspec.ValidationError; KeyError: it is none of these kinds."""
    msgspec.convert(found, KINDS[f"{found['apiVersion']} {found['kind']}"])
