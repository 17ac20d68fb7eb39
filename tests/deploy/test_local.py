"""The text that `make dev` prints when the stack runs."""

import shlex

from deploy.local.__main__ import introduction

URL = "http://127.0.0.1:8002"


def test_doctor_command_is_valid_in_a_shell_for_any_settings():
    settings = {
        "REDIS_URL": "redis://127.0.0.1:40001/0",
        "KUBECONFIG_PATH": "/a directory/kubeconfig",
        "K8S_NAMESPACE": "deer-flow",
        "LARK_CLI_INIT_IMAGE": "$(reboot)",
        "LOG_LEVEL": "DEBUG",
    }
    text = introduction(URL, "a-key", settings)
    (line,) = (line for line in text.splitlines() if line.endswith("-m deploy.doctor"))
    *variables, _python, _option, _module = shlex.split(line)
    assert variables == [f"{name}={value}" for name, value in settings.items() if name != "LOG_LEVEL"]


def test_example_calls_contain_url_and_key():
    lines = [line for line in introduction(URL, "a-key", {}).splitlines() if "curl" in line]
    assert len(lines) == 3
    assert all(URL in line and "X-API-Key: a-key" in line for line in lines)
