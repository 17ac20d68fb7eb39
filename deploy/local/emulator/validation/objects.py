"""Validation of new objects."""

from deploy.local.emulator.base.names import validate_dns_label, validate_dns_subdomain
from deploy.local.emulator.base.statuses import FieldError, Object
from deploy.local.emulator.storage.kinds import NAMESPACES, PODS, SERVICES, VOLUME_CLAIMS, Kind
from deploy.local.emulator.validation.metadata import validate_metadata
from deploy.local.emulator.validation.pods import validate_pod_spec
from deploy.local.emulator.validation.services import validate_service_spec
from deploy.local.emulator.validation.volume_claims import validate_volume_claim_spec


def validate_object(kind: Kind, body: Object) -> list[FieldError]:
    if kind is SERVICES:
        named = validate_metadata(body["metadata"], lambda name: validate_dns_label(name, "characters"))
        return named + validate_service_spec(body["spec"])
    if kind is NAMESPACES:
        return validate_metadata(body["metadata"], validate_dns_label)
    named = validate_metadata(body["metadata"], validate_dns_subdomain)
    if kind is VOLUME_CLAIMS:
        return named + validate_volume_claim_spec(body["spec"])
    return named + validate_pod_spec(body["spec"]) if kind is PODS else named
