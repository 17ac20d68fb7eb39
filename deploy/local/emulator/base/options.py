"""Options of the command line."""

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """All options. Times are in seconds. The defaults make tests quick; a real kubelet is slower."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free port
    node_address: str = "127.0.0.1"  # node ports listen here; the hostIP of all Pods
    node_ports: tuple[int, int] = (30000, 32767)  # inclusive, Kubernetes' default range
    schedule_seconds: float = 0.0
    start_seconds: float = 0.05
    ready_seconds: float = 0.05
    termination_seconds: float = 0.2  # time a container needs to stop; the grace of its Pod limits it
    proxy_seconds: float = 0.0  # delay of kube-proxy for a new Service or a ready Pod; up to 1 s on a real cluster
    garbage_seconds: float = 0.1
    freshness_seconds: float = 3.0  # a list waits this long for a future version, as on the real server
    bookmark_seconds: float = 60.0  # about the interval of the real watch cache
    history: int = 10000  # changes kept for each kind, from which watches resume
    seed: int | None = None
