"""What `make dev` says when all of it runs."""

import shlex

from deploy.local.__main__ import introduction

URL = "http://127.0.0.1:8002"


def test_the_doctors_line_can_be_pasted():
    """With all that a worker has set, whatever is in it, and ready for a shell."""
    settings = {
        "REDIS_URL": "redis://127.0.0.1:40001/0",
        "KUBECONFIG_PATH": "/a directory/kubeconfig",
        "K8S_NAMESPACE": "deer-flow",
        "LARK_CLI_INIT_IMAGE": "$(reboot)",
        "LOG_LEVEL": "DEBUG",
    }
    told = introduction(URL, "a-key", settings)
    (line,) = (line for line in told.splitlines() if line.endswith("-m deploy.doctor"))
    *given, _python, _option, _module = shlex.split(line)
    assert given == [f"{name}={value}" for name, value in settings.items() if name != "LOG_LEVEL"]


def test_the_first_calls_have_the_url_and_the_key():
    lines = [line for line in introduction(URL, "a-key", {}).splitlines() if "curl" in line]
    assert len(lines) == 3
    assert all(URL in line and "X-API-Key: a-key" in line for line in lines)
