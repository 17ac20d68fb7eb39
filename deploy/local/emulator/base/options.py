"""What the command line sets."""

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds unless said otherwise; the defaults make an unhurried test quick, not a kubelet realistic."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    node_address: str = "127.0.0.1"  # where node ports listen, and every Pod's hostIP
    node_ports: tuple[int, int] = (30000, 32767)  # inclusive, Kubernetes' default range
    schedule_seconds: float = 0.0
    start_seconds: float = 0.05
    ready_seconds: float = 0.05
    termination_seconds: float = 0.2  # how long a container takes to stop; capped by the Pod's grace
    proxy_seconds: float = (
        0.0  # until kube-proxy knows of a new Service or a ready Pod; a real one takes up to a second
    )
    garbage_seconds: float = 0.1
    bookmark_seconds: float = 60.0  # the real watch cache's interval is about a minute
    history: int = 10000  # events kept per kind, for watches to resume from
    seed: int | None = None
