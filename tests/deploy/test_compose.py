"""docker-compose-dev.yaml: services, settings, health checks and confinement."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.settings import TABLE, read_settings
from worker.__main__ import CLOSE_SECONDS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose-dev.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROCESSES = ("api", "worker")
REDIS_URL = "redis://:${REDIS_PASSWORD}@redis:6379/0"
DEFAULTS = {"REDIS_URL": REDIS_URL, "WORKER_METRICS_HOST": "0.0.0.0"}
"""Defaults of this file that differ from the defaults of the settings."""


def test_services_are_redis_api_and_two_workers_with_monitoring_in_a_profile():
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"redis", "api", "worker"}
    assert {name: s["profiles"] for name, s in SERVICES.items() if "profiles" in s} == {
        "prometheus": ["observability"],
        "grafana": ["observability"],
    }
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert SERVICES["worker"]["command"] == ["python", "-m", "worker"]
    assert "command" not in SERVICES["api"], "the image's own command is the API"


@pytest.mark.parametrize("process", PROCESSES)
def test_settings_are_all_passed_through(process):
    """`NAME: ${NAME:-}`: an empty setting counts as not set."""
    expected = {row.name: f"${{{row.name}:-{DEFAULTS.get(row.name, '')}}}" for row in TABLE}
    assert SERVICES[process]["environment"] == expected


def test_settings_of_an_empty_environment_are_valid():
    defaults = {name: value.replace("${REDIS_PASSWORD}", "a1b2") for name, value in DEFAULTS.items()}
    settings = read_settings({row.name: "" for row in TABLE} | defaults)
    assert {name: getattr(settings, name.lower()) for name in defaults} == defaults


def test_secrets_have_no_value_in_the_file():
    for row in TABLE:
        if row.secret:
            assert re.search(rf"^  {row.name}: \$\{{{row.name}:-", FILE.read_text(), re.MULTILINE)


def test_kubeconfig_is_mounted_only_in_workers():
    (kubeconfig,) = SERVICES["worker"]["volumes"]
    assert kubeconfig["type"] == "bind"
    assert kubeconfig["read_only"] is True
    assert kubeconfig["bind"]["create_host_path"] is False
    assert kubeconfig["target"] == next(row.default for row in TABLE if row.name == "KUBECONFIG_PATH")
    assert "volumes" not in SERVICES["api"]


def test_user_of_a_worker_can_be_the_owner_of_the_kubeconfig():
    """Usually only its owner can read a kubeconfig, and the image's own user owns no file."""
    assert SERVICES["worker"]["user"] == "${PROVISIONER_UID:-1000}:${PROVISIONER_GID:-1000}"


@pytest.mark.parametrize("process", PROCESSES)
def test_process_is_confined_and_can_reach_its_host(process):
    service = SERVICES[process]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["extra_hosts"] == ["host.docker.internal:host-gateway"]
    assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}


def test_redis_keeps_every_record():
    """Redis saves to disk. A full Redis refuses writes and drops no key."""
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]
    assert "redis-data" in COMPOSE["volumes"]


def test_redis_has_a_password_that_must_be_given():
    redis = SERVICES["redis"]
    assert redis["command"][-2:] == ["--requirepass", "${REDIS_PASSWORD:?choose a password for Redis}"]
    assert redis["environment"] == {"REDISCLI_AUTH": "${REDIS_PASSWORD}"}, "the health check needs it too"


def test_redis_is_in_a_network_of_api_and_workers_alone():
    networks = {name: service.get("networks", ["default"]) for name, service in SERVICES.items()}
    assert networks.pop("redis") == ["redis"]
    assert {name for name, joined in networks.items() if "redis" in joined} == set(PROCESSES)
    assert COMPOSE["networks"]["redis"] == {"internal": True}


def test_anonymous_visitor_of_grafana_only_views():
    assert SERVICES["grafana"]["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_published_ports_are_on_loopback_only():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "api": ["127.0.0.1:8002:8002"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_files_mounted_in_prometheus_and_grafana_exist():
    for name in ("prometheus", "grafana"):
        paths = [volume.split(":") for volume in SERVICES[name]["volumes"]]
        assert all(mode == ["ro"] and (ROOT / path).exists() for path, _, *mode in paths if path.startswith("./"))


def test_prometheus_scrapes_the_ports_of_api_and_workers():
    config = yaml.safe_load((ROOT / "deploy/observability/prometheus.yaml").read_text())
    api, worker = config["scrape_configs"]
    assert api["static_configs"] == [{"targets": ["api:8002"]}]
    (discovery,) = worker["dns_sd_configs"]
    assert (discovery["names"], discovery["port"]) == (["worker"], read_settings({}).worker_metrics_port)


def test_grafana_uses_that_prometheus_and_that_dashboard():
    directory = ROOT / "deploy/observability/grafana"
    (source,) = yaml.safe_load((directory / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((directory / "dashboards/provisioner.yaml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/dashboard.json" in mounted
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in mounted


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_a_health_check_a_restart_policy_and_a_version(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys()
    assert service["restart"] == "unless-stopped"
    assert not service["image"].endswith(":latest")
    assert ":" in service["image"]


def test_health_checks_use_http_for_the_api_and_the_command_for_a_worker():
    _, python, flag, source = SERVICES["api"]["healthcheck"]["test"]
    assert (python, flag) == ("python", "-c")
    compile(source, "health check of api", "exec")
    assert SERVICES["worker"]["healthcheck"]["test"] == ["CMD", "python", "-m", "worker", "--check"]


def test_stopping_worker_has_time_to_finish_its_jobs():
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > read_settings({}).worker_shutdown_seconds + CLOSE_SECONDS


def test_docker_compose_accepts_the_file(tmp_path):
    command = compose_command()
    if command is None:
        pytest.skip("no working `docker compose` or `docker-compose` on this machine")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "REDIS_PASSWORD": "a1b2"}
    if "DOCKER_CONFIG" in os.environ:  # where the plugin may be
        environment["DOCKER_CONFIG"] = os.environ["DOCKER_CONFIG"]
    checked = subprocess.run(
        [*command, "-f", str(FILE), "config", "-q"], env=environment, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert not checked.stderr, "docker compose prints a warning"


def compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        try:
            subprocess.run([*command, "version"], capture_output=True, check=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            continue
        return command
    return None
