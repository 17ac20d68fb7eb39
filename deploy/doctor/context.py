"""What is examined: the settings, and an open connection to each thing that they name."""

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
_MARKS = (".dockerenv", "run/.containerenv")
"""Docker and Podman leave one of these in each container."""


class Context:
    """`clock` is this host's, seconds since the epoch."""

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
        """Raises InvalidSettings: there is no usable configuration of it."""
        if isinstance(self._cluster, InvalidSettings):
            raise self._cluster
        return self._cluster


@asynccontextmanager
async def open_context(
    settings: Settings, *, clock: Clock = time.time, environment: Mapping[str, str] = os.environ, root: Path = ROOT
) -> AsyncIterator[Context]:
    """Nothing is asked of Redis or the cluster before the first check. `root` is where a container's marks are."""
    async with AsyncExitStack() as stack:
        redis = connect(settings, FAIL_FAST)
        stack.push_async_callback(redis.aclose)
        cluster = await _cluster(settings, stack)
        yield Context(settings, redis, cluster, clock=clock, in_container=is_container(environment, root))


def is_container(environment: Mapping[str, str], root: Path) -> bool:
    """Of a cluster's Pod, or of Docker or Podman."""
    return "KUBERNETES_SERVICE_HOST" in environment or any((root / mark).exists() for mark in _MARKS)


async def _cluster(settings: Settings, stack: AsyncExitStack) -> ClusterInspector | InvalidSettings:
    try:
        async with asyncio.timeout(PLUGIN_SECONDS):
            settings_checks = await configuration(settings)
        cluster = ClusterInspector(settings_checks, settings.k8s_namespace, settings.k8s_timeout_seconds)
    except InvalidSettings as error:
        return error
    except TimeoutError:
        return InvalidSettings(f"KUBECONFIG_PATH: what it runs for a token took more than {PLUGIN_SECONDS:g} s")
    except OSError as error:  # as of ssl, which reads the files when the client is made
        return InvalidSettings(f"K8S_CA_FILE, or the kubeconfig's certificates, cannot be read: {error}")
    return await stack.enter_async_context(cluster)
