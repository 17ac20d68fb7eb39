"""The list of all checks, in the order of the report."""

from deploy.doctor import api_server, clocks, namespace, nodes, processes, redis_server, settings_checks
from deploy.doctor.findings import Check

CHECKS = (
    Check("settings", settings_checks.check_settings),
    Check("paths", settings_checks.check_paths),
    Check("redis", redis_server.check_connection),
    Check("redis server", redis_server.check_server),
    Check("redis persistence", redis_server.check_persistence),
    Check("redis eviction", redis_server.check_eviction),
    Check("redis clock", clocks.check_redis_clock),
    Check("cluster", api_server.check_connection),
    Check("cluster clock", clocks.check_cluster_clock),
    Check("permissions", api_server.check_permissions),
    Check("namespace", namespace.check_namespace),
    Check("quota", namespace.check_quota),
    Check("pod security", namespace.check_pod_security),
    Check("volume claims", namespace.check_volume_claims),
    Check("node ports", nodes.check_node_ports),
    Check("node host", nodes.check_node_host),
    Check("image", nodes.check_image),
    Check("workers", processes.check_workers),
    Check("cluster sync", processes.check_cluster_sync),
)
SETTINGS = CHECKS[0].name
"""Name of the only check that runs if the settings are invalid."""
