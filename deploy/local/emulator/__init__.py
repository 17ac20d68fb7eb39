"""An emulated Kubernetes API server over HTTP, in memory, held to recordings of a real 1.36.2.

    python -m deploy.local.emulator --kubeconfig FILE

**Emulated**: namespaces, Pods, Services, Events, PersistentVolumeClaims, ResourceQuotas, ServiceAccounts and one Node.
The verbs are create, get, list, watch, delete, deletecollection, patch and replace. Also emulated are:

- defaults, validation, the order of errors, and Status bodies word for word
- preconditions (uid, resourceVersion), finalizers, owner references and their garbage collection
- label and field selectors, pages of one snapshot, resourceVersions
- watches with bookmarks, `sendInitialEvents` and 410
- node ports with their allocation and exhaustion, quotas, Pod security

A scheduler and a kubelet run the lifecycle of Pods and write Events. A port that a container declares answers
`GET /v1/sandbox` on the node ports of the Services that select the Pod. The Pod is chosen as kube-proxy chooses.

**Not emulated**: other kinds, processes, logs, exec, images, volumes, affinity, taints, LimitRanges and webhooks. Also
server-side apply, `dryRun` (refused), strict field validation, warnings, RBAC and dual stack. The only token may do
everything. There are no Secrets, so a Pod that names a missing Secret starts anyway. Probes pass after the ready
seconds. The scheduler checks each Pod alone. Foreground deletion runs in the background. A strategic merge patch
replaces lists, as a merge patch does. ClusterIPs are allocated, but nothing listens there.

**Faults**: `PUT /emulator/faults`, with the same token, replaces all rules. `GET` shows the rules and how often each
one struck; `DELETE` removes all. A rule has a `kind`. These fields limit its targets: `verb`, `resource`, `namespace`,
`name` (a regular expression), `label` (key=value), `share`, `times`.

    requests     delay {seconds}   error {status, reason, message, retry_after}   reset
                 with `after: true` after the write
                 unavailable {seconds}: cuts all connections, watches too
    watches      watch-close {seconds}   watch-stall   watch-expired
    Pods, when   image-pull {seconds}   no-mount {seconds}   slow-start {seconds}   unschedulable   evicted {seconds}
    created      crash-loop {exit_code, seconds}   out-of-memory {seconds}
                 never-ready {seconds}   readiness-flaps {seconds}

`POST /emulator/lose {resource, namespace, name}` removes an object at once, as a lost node does. `POST
/emulator/expire` makes all versions up to now too old. `GET /emulator/calls` counts requests by verb and resource, and
`DELETE` resets the counts.
"""
