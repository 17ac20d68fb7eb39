"""Admission of the objects that a Pod refers to: the plugins ServiceAccount, Priority and RuntimeClass.

The emulator has the built-in priority classes only, and no runtime class.
"""

from deploy.local.emulator.base.statuses import Object, forbidden
from deploy.local.emulator.storage.kinds import SERVICE_ACCOUNTS
from deploy.local.emulator.storage.objects import Store

_PRIORITIES = ("system-cluster-critical", "system-node-critical")


def admit_references(store: Store, body: Object) -> None:
    namespace, name, spec = body["metadata"]["namespace"], body["metadata"].get("name", ""), body["spec"]
    account = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    if store.get(SERVICE_ACCOUNTS, namespace, account) is None:
        detail = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden("pods", name, detail)
    priority = spec.get("priorityClassName")
    if priority and priority not in _PRIORITIES:
        raise forbidden("pods", name, f"no PriorityClass with name {priority} was found")
    if runtime_class := spec.get("runtimeClassName"):
        raise forbidden("pods", name, f'pod rejected: RuntimeClass "{runtime_class}" not found')
