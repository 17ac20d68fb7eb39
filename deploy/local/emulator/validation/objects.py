"""All faults of a new object."""

from deploy.local.emulator.base.names import dns_label_faults, dns_subdomain_faults
from deploy.local.emulator.base.statuses import FieldError, Object
from deploy.local.emulator.storage.kinds import CLAIMS, NAMESPACES, PODS, SERVICES, Kind
from deploy.local.emulator.validation.metadata import metadata_faults
from deploy.local.emulator.validation.pods import pod_faults
from deploy.local.emulator.validation.services import service_faults
from deploy.local.emulator.validation.volume_claims import claim_faults


def faults(kind: Kind, body: Object) -> list[FieldError]:
    if kind is SERVICES:
        named = metadata_faults(body["metadata"], lambda name: dns_label_faults(name, "characters"))
        return named + service_faults(body["spec"])
    if kind is NAMESPACES:
        return metadata_faults(body["metadata"], dns_label_faults)
    named = metadata_faults(body["metadata"], dns_subdomain_faults)
    if kind is CLAIMS:
        return named + claim_faults(body["spec"])
    return named + pod_faults(body["spec"]) if kind is PODS else named
