"""Admission that looks up what a Pod names: service account, priority class, runtime class.

Plugins ServiceAccount, Priority and RuntimeClass. Of the latter two the cluster has only the built-in ones: none.
"""

from deploy.local.emulator.base.statuses import Object, forbidden
from deploy.local.emulator.storage.kinds import SERVICE_ACCOUNTS
from deploy.local.emulator.storage.objects import Store

_PRIORITIES = ("system-cluster-critical", "system-node-critical")


def admit_service_account(store: Store, body: Object) -> None:
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
