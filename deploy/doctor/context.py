"""The context of a check: the settings, a Redis client and a cluster client."""

import asyncio
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
from worker.kubernetes.config import PLUGIN_SECONDS, configuration

ROOT = Path("/")
_CONTAINER_FILES = (".dockerenv", "run/.containerenv")
"""Files that Docker and Podman create in each container."""


class Context:
    """`clock` returns this host's time in seconds since the epoch."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        cluster: ClusterInspector | InvalidSettings,
        *,
        clock: Clock,
        in_container: bool,
    ) -> None:
        self.settings = settings
        self.redis = redis
        self.clock = clock
        self.in_container = in_container
        self._cluster = cluster

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
    """Open the clients without a request to Redis or the cluster. `root` is the root of the file system."""
    async with AsyncExitStack() as stack:
        redis = connect(settings, FAIL_FAST)
        stack.push_async_callback(redis.aclose)
        cluster = await _open_cluster(settings, stack)
        yield Context(settings, redis, cluster, clock=clock, in_container=is_container(environment, root))


def is_container(environment: Mapping[str, str], root: Path) -> bool:
    """Return True in a Pod and in a container of Docker or Podman."""
    return "KUBERNETES_SERVICE_HOST" in environment or any((root / name).exists() for name in _CONTAINER_FILES)


async def _open_cluster(settings: Settings, stack: AsyncExitStack) -> ClusterInspector | InvalidSettings:
    try:
        async with asyncio.timeout(PLUGIN_SECONDS):
            cluster_configuration = await configuration(settings)
        cluster = ClusterInspector(cluster_configuration, settings.k8s_namespace, settings.k8s_timeout_seconds)
    except InvalidSettings as error:
        return error
    except TimeoutError:
        return InvalidSettings(f"KUBECONFIG_PATH: the command that fetches a token took more than {PLUGIN_SECONDS:g} s")
    except OSError as error:  # ssl reads the files when the client is created
        return InvalidSettings(f"K8S_CA_FILE, or a certificate of the kubeconfig, cannot be read: {error}")
    return await stack.enter_async_context(cluster)
