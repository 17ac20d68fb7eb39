"""All checks there are, in the order in which they are shown."""

from deploy.doctor import api_server, clocks, namespace, nodes, processes, redis_server, settings_checks
from deploy.doctor.findings import Check

CHECKS = (
    Check("settings", settings_checks.settings),
    Check("paths", settings_checks.paths),
    Check("redis", redis_server.reachable),
    Check("redis server", redis_server.server),
    Check("redis persistence", redis_server.persistence),
    Check("redis eviction", redis_server.eviction),
    Check("redis clock", clocks.against_redis),
    Check("cluster", api_server.reachable),
    Check("cluster clock", clocks.against_cluster),
    Check("permissions", api_server.permissions),
    Check("namespace", namespace.present),
    Check("quota", namespace.quota),
    Check("pod security", namespace.pod_security),
    Check("claims", namespace.claims),
    Check("node ports", nodes.node_ports),
    Check("node host", nodes.node_host),
    Check("image", nodes.image),
    Check("workers", processes.workers),
    Check("observer", processes.observer),
)
SETTINGS = CHECKS[0].name
"""What is said when they cannot be read, and nothing else can be looked at."""
