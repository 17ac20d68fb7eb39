"""The context of a check: the settings, a Redis client and a cluster client."""

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis

from deploy.doctor.inspector import ClusterInspector
from shared.errors import InvalidSettings
from shared.redis.clock import Clock
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import Settings
from worker.kubernetes.config import configuration

ROOT = Path("/")
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
"""Files that Docker and Podman create in each container."""
_ACCOUNT_TOKEN = "var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path


class Context:
    """`clock` returns this host's time in seconds since the epoch. `root` is the root of the file system."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        cluster: ClusterInspector | InvalidSettings,
        *,
        clock: Clock,
        environment: Mapping[str, str],
        root: Path,
    ) -> None:
        self.settings = settings
        self.redis = redis
        self.clock = clock
        self.environment = environment
        self._cluster = cluster
        self._root = root

    @property
    def in_container(self) -> bool:
        """True in a Pod and in a container of Docker or Podman."""
        return self._in_pod or any((self._root / name).exists() for name in _CONTAINER_FILES)

    @property
    def in_pod_of_api(self) -> bool:
        """True in a Pod without the token of a ServiceAccount. Only workers have access to the cluster."""
        return self._in_pod and not (self._root / _ACCOUNT_TOKEN).exists()

    @property
    def in_pod_of_worker(self) -> bool:
        return self._in_pod and (self._root / _ACCOUNT_TOKEN).exists()

    @property
    def _in_pod(self) -> bool:
        return "KUBERNETES_SERVICE_HOST" in self.environment

    @property
    def cluster(self) -> ClusterInspector:
        """The cluster client.

        Raises:
            InvalidSettings: there is no usable configuration of a cluster.
        """
        if isinstance(self._cluster, InvalidSettings):
            raise self._cluster
        return self._cluster


@asynccontextmanager
async def open_context(
    settings: Settings, *, clock: Clock = time.time, environment: Mapping[str, str] = os.environ, root: Path = ROOT
) -> AsyncIterator[Context]:
    """Open the clients without a request to Redis or the cluster."""
    async with AsyncExitStack() as stack:
        redis = connect(settings, FAIL_FAST)
        stack.push_async_callback(redis.aclose)
        cluster = await _open_cluster(settings, stack)
        yield Context(settings, redis, cluster, clock=clock, environment=environment, root=root)


async def _open_cluster(settings: Settings, stack: AsyncExitStack) -> ClusterInspector | InvalidSettings:
    try:
        config = await configuration(settings)
    except InvalidSettings as error:
        return error
    cluster = ClusterInspector(config, settings.k8s_namespace, settings.k8s_timeout_seconds)
    return await stack.enter_async_context(cluster)
