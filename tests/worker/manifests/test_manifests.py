"""Properties of all Pods and Services, and ports, names and lark-cli's containers. test_storage.py has the mounts."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.sandbox.record import Mount, Sandbox, Spec
from shared.settings import Settings, read_settings
from tests.support.records import record_of, settings_of
from worker import manifests
from worker.kubernetes.manifest_types import Container

POD_UID = "some-uid"
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
CONTAINER_PATHS = [
    "/mnt/acp-workspace",
    "/mnt/skills/custom",
    "/mnt/skills/integrations",
    "/mnt/integrations/lark-cli/config",
    "/mnt/integrations/lark-cli/config/locks",
    "/mnt/integrations/lark-cli/data",
    "/mnt/integrations/lark-cli/runtime",
]
BASE = "/srv/df"

ids = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
extra_mounts = st.lists(
    st.builds(
        Mount,
        host_path=names.map(lambda name: f"{BASE}/{name}"),
        container_path=st.sampled_from(CONTAINER_PATHS),
        read_only=st.booleans(),
    ),
    max_size=7,
    unique_by=lambda mount: mount.container_path,
)
specs = st.builds(
    Spec,
    user_id=names,
    thread_id=st.none() | names,
    extra_mounts=extra_mounts.map(tuple),
    provision_lark_cli_runtime=st.booleans(),
    provision_lark_cli_broker=st.booleans(),
)
records = st.builds(
    lambda sandbox_id, generation, spec: replace(record_of(sandbox_id, generation=generation), spec=spec),
    ids,
    st.integers(1, 10**9),
    specs,
)
environments = st.fixed_dictionaries(
    {},
    optional={
        "DEER_FLOW_HOST_BASE_DIR": st.just(BASE),
        "THREADS_HOST_PATH": st.just(f"{BASE}/threads"),
        "SKILLS_HOST_PATH": st.just("/srv/skills"),
        "SKILLS_PVC_NAME": st.just("skills"),
        "SKILLS_PVC_SUBPATH_TEMPLATE": st.just("{user_id}/{thread_id}"),
        "USERDATA_PVC_NAME": st.just("home"),
        "LARK_CLI_INIT_IMAGE": st.just("init:1"),
        "LARK_CLI_BROKER_IMAGE": st.just("broker:1"),
        "SANDBOX_SERVICE_TYPE": st.sampled_from(["NodePort", "ClusterIP"]),
        "SANDBOX_CONTAINER_PORT": st.integers(1, 65535).map(str),
    },
).map(read_settings)


def containers(record: Sandbox, settings: Settings) -> list[Container]:
    spec = manifests.pod(record, settings).spec
    return [*spec.init_containers, *spec.containers]


@given(records, environments)
def test_no_container_has_two_mounts_at_one_path(record: Sandbox, settings: Settings):
    """Kubernetes refuses such a Pod with 422."""
    for container in containers(record, settings):
        assert [p for p, n in Counter(m.mount_path for m in container.volume_mounts).items() if n > 1] == []


@given(records, environments)
def test_volumes_have_unique_names_and_are_exactly_the_mounted_ones(record: Sandbox, settings: Settings):
    names = [volume.name for volume in manifests.pod(record, settings).spec.volumes]
    mounted = {mount.name for container in containers(record, settings) for mount in container.volume_mounts}
    assert len(names) == len(set(names))
    assert mounted == set(names)


@given(records, environments)
def test_user_data_is_always_mounted_and_writable(record: Sandbox, settings: Settings):
    (sandbox,) = (c for c in containers(record, settings) if c.name == "sandbox")
    assert [m.read_only for m in sandbox.volume_mounts if m.mount_path == "/mnt/user-data"] == [False]


@given(records, environments)
def test_same_record_and_settings_give_equal_manifests(record: Sandbox, settings: Settings):
    """A retry sends the same Pod and Service."""
    assert manifests.pod(record, settings) == manifests.pod(record, settings)
    assert manifests.service(record, POD_UID, settings) == manifests.service(record, POD_UID, settings)


@given(records, environments)
def test_names_and_label_values_are_valid_for_every_id_and_incarnation(record: Sandbox, settings: Settings):
    pod, service = manifests.pod(record, settings), manifests.service(record, POD_UID, settings)
    volumes = [volume.name for volume in pod.spec.volumes]
    all_containers = [container.name for container in containers(record, settings)]
    for name in (pod.metadata.name, service.metadata.name, *volumes, *all_containers):
        assert DNS_LABEL.fullmatch(name)
        assert len(name) <= 63
    for value in (*pod.metadata.labels.values(), *service.metadata.labels.values(), *service.spec.selector.values()):
        assert LABEL_VALUE.fullmatch(value)
        assert len(value) <= 63


@given(records, environments)
def test_service_selects_and_is_owned_by_pod_of_its_incarnation(record: Sandbox, settings: Settings):
    """The target port is the port of the container."""
    pod, service = manifests.pod(record, settings), manifests.service(record, POD_UID, settings)
    (owner,) = service.metadata.owner_references
    (port,) = service.spec.ports
    assert service.spec.selector.items() <= pod.metadata.labels.items()
    assert (owner.name, owner.uid) == (pod.metadata.name, POD_UID)
    assert port.target_port == pod.spec.containers[0].ports[0].container_port == settings.sandbox_container_port


@given(ids, st.integers(2, 10**9))
def test_incarnations_of_an_id_have_different_names_and_selectors(sandbox_id: str, generation: int):
    """The objects of two incarnations can exist at the same time. A Service never selects the other one's Pod."""
    first, later = record_of(sandbox_id), record_of(sandbox_id, generation=generation)
    settings = settings_of()
    old, new = manifests.pod(first, settings), manifests.pod(later, settings)
    service = manifests.service(later, POD_UID, settings)
    assert old.metadata.name == f"sandbox-{sandbox_id}"
    assert new.metadata.name == f"sandbox-{sandbox_id}-{generation}"
    assert service.metadata.name == f"{new.metadata.name}-svc"
    assert not service.spec.selector.items() <= old.metadata.labels.items()


@pytest.mark.parametrize(
    ("environment", "type_", "port"),
    [
        ({}, "NodePort", 8080),
        ({"SANDBOX_SERVICE_TYPE": "ClusterIP"}, "ClusterIP", 8080),
        ({"SANDBOX_CONTAINER_PORT": "9000"}, "NodePort", 9000),
        ({"SANDBOX_SERVICE_TYPE": "ClusterIP", "SANDBOX_CONTAINER_PORT": "9000"}, "ClusterIP", 9000),
    ],
)
def test_service_has_configured_type_and_everything_the_configured_port(
    environment: dict[str, str], type_: str, port: int
):
    settings = settings_of(**environment)
    service = manifests.service(record_of(), POD_UID, settings)
    (sandbox,) = manifests.pod(record_of(), settings).spec.containers
    probes = (sandbox.startup_probe, sandbox.readiness_probe, sandbox.liveness_probe)
    assert service.spec.type == type_
    assert [(p.name, p.port, p.target_port) for p in service.spec.ports] == [("http", port, port)]
    assert [(p.name, p.container_port) for p in sandbox.ports] == [("http", port)]
    assert [p and (p.http_get.path, p.http_get.port) for p in probes] == [("/v1/sandbox", port)] * 3


@pytest.mark.parametrize(
    ("environment", "flags", "expected"),
    [
        ({}, (True, True), {}),
        ({"LARK_CLI_INIT_IMAGE": "init:1"}, (False, False), {}),
        ({"LARK_CLI_INIT_IMAGE": "init:1"}, (True, True), {"lark-cli-init": "init:1"}),
        ({"LARK_CLI_INIT_IMAGE": "init:1"}, (False, True), {}),
        ({"LARK_CLI_BROKER_IMAGE": "broker:1"}, (True, False), {}),
        (
            {"LARK_CLI_INIT_IMAGE": "init:1", "LARK_CLI_BROKER_IMAGE": "broker:1"},
            (True, True),
            {"lark-cli-shim-init": "broker:1", "lark-cli-broker": "broker:1"},
        ),
        (
            {"LARK_CLI_INIT_IMAGE": "init:1", "LARK_CLI_BROKER_IMAGE": "broker:1"},
            (True, False),
            {"lark-cli-init": "init:1"},
        ),
    ],
)
def test_lark_containers_exist_if_requested_and_configured(
    environment: dict[str, str], flags: tuple[bool, bool], expected: dict[str, str]
):
    """The broker has priority over the runtime."""
    runtime, broker = flags
    record = record_of(spec={"provision_lark_cli_runtime": runtime, "provision_lark_cli_broker": broker})
    all_containers = containers(record, settings_of(SANDBOX_IMAGE="sandbox:1", **environment))
    assert {c.name: c.image for c in all_containers} == {"sandbox": "sandbox:1"} | expected


@pytest.mark.parametrize(
    ("denied", "env"), [("", {}), ("auth,config", {"DEERFLOW_LARK_BROKER_DENY_SUBCOMMANDS": "auth,config"})]
)
def test_broker_gets_denied_subcommands_if_configured(denied: str, env: dict[str, str]):
    settings = settings_of(LARK_CLI_BROKER_IMAGE="broker:1", DEERFLOW_LARK_BROKER_DENY_SUBCOMMANDS=denied)
    all_containers = containers(record_of(spec={"provision_lark_cli_broker": True}), settings)
    (broker,) = (c for c in all_containers if c.name == "lark-cli-broker")
    directories = {"LARKSUITE_CLI_CONFIG_DIR": "/var/lark/config", "LARKSUITE_CLI_DATA_DIR": "/var/lark/data"}
    assert {e.name: e.value for e in broker.env} == directories | env


@pytest.mark.parametrize(("lifetime", "deadline"), [(0.0, None), (86400.0, 90000), (1.0, 3601), (0.5, 3601)])
def test_active_deadline_is_an_hour_after_lifetime_or_none(lifetime: float, deadline: int | None):
    """Kubernetes ends the Pod if no worker does."""
    record = record_of(lifetime=lifetime)
    assert manifests.pod(record, settings_of()).spec.active_deadline_seconds == deadline
