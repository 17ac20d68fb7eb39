"""An emulated Kubernetes API server over HTTP, in one process and in memory, held to what a real 1.36.2 answered.

    python -m deploy.local.emulator --kubeconfig FILE     # --help tells the options

**Emulated**: namespaces, Pods, Services, Events, PersistentVolumeClaims, ResourceQuotas, ServiceAccounts and one Node,
with create, get, list, watch, delete, deletecollection, patch and replace. Defaults, validation and the order in which
refusals come; Status bodies word for word; uid and resourceVersion preconditions; finalizers; owner references and
their garbage collection; label and field selectors; pages of one snapshot; resourceVersions, watches with bookmarks,
`sendInitialEvents` and 410; node ports, their allocation and exhaustion; quotas; Pod security. A scheduler and a
kubelet take Pods through their life and write Events; what a container declares as its port answers
`GET /v1/sandbox` on the node ports of the Services that select it, chosen as kube-proxy chooses.

**Not emulated**: other kinds (no ConfigMaps, Secrets, Deployments: a Pod that names a missing Secret starts all the
same), processes, logs, exec, images and volumes; probes (the ready seconds pass instead); affinity, taints and room on
the node beside what one Pod asks for; LimitRanges; webhooks; server-side apply; `dryRun` (refused); strict field
validation and warnings; foreground deletion (done in the background); RBAC (one token may do everything); dual stack.
A strategic merge patch is applied as a merge patch: it replaces lists. ClusterIPs are given, but nothing listens there.

**Misbehaviour**, with the same token. `PUT /emulator/faults` replaces all rules, `GET` shows them and how often each
struck, `DELETE` clears. A rule names its `kind` and whom it concerns (`verb`, `resource`, `namespace`, `name`: a
regular expression, `label`: key=value, `share`, `times`):

    delay {seconds}   error {status, retry_after}   reset        of requests; `after: true` when the write is done
    unavailable {seconds}                                        every connection is cut, watches too
    watch-close {seconds}   watch-stall   watch-expired          of watches
    image-pull  crash-loop {exit_code}  out-of-memory  no-mount {seconds: first back-off}   unschedulable
    never-ready  readiness-flaps {seconds}  evicted {seconds}  slow-start {seconds}         of Pods, when they are made

`POST /emulator/lose {resource, namespace, name}` removes an object behind everyone's back, `POST /emulator/expire`
makes every version before now too old, `GET /emulator/calls` counts requests by verb and resource, `DELETE` resets it.
"""
