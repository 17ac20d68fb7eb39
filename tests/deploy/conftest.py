"""The overlays of deploy/kubernetes, rendered once in each test process."""

from collections.abc import Callable

import pytest

from tests.deploy.rendering import Rendering, copy, render

OWN_REDIS = "PROVISIONER_API_KEY=a-key\nREDIS_PASSWORD=a-password\n"
EXTERNAL_REDIS = "PROVISIONER_API_KEY=a-key\nREDIS_URL=rediss://user:another@redis.example.com:6379/3\n"

RUNBOOKS = "https://wiki.example.com/runbooks"


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Rendering:
    return render(copy(tmp_path_factory.mktemp("dev"), "dev", OWN_REDIS))


@pytest.fixture(scope="session")
def prod(tmp_path_factory: pytest.TempPathFactory) -> Rendering:
    return render(copy(tmp_path_factory.mktemp("prod"), "prod", OWN_REDIS))


@pytest.fixture(scope="session")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Rendering:
    """`prod` with the changes of docs/operations.md: an external Redis, another sandbox image, published runbooks."""
    overlay = copy(tmp_path_factory.mktemp("changed"), "prod", EXTERNAL_REDIS)
    kustomization = overlay / "kustomization.yaml"
    text = kustomization.read_text()
    text = text.replace("  - ../../components/redis #", "  - ../../components/external-redis #")
    kustomization.write_text(text.replace("url=docs/runbooks.md", f"url={RUNBOOKS}"))
    with (overlay / "settings.env").open("a") as settings:
        settings.write("SANDBOX_IMAGE=registry.example.com/sandbox:7\n")
    return render(overlay)


@pytest.fixture(scope="session")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> Rendering:
    """`prod` with the component sandbox-network."""
    overlay = copy(tmp_path_factory.mktemp("isolated"), "prod", OWN_REDIS)
    kustomization = overlay / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("  # - ../../components", "  - ../../components"))
    return render(overlay)


@pytest.fixture(scope="session", params=["dev", "prod", "changed"])
def rendering(request: pytest.FixtureRequest) -> Rendering:
    get: Callable[[str], Rendering] = request.getfixturevalue
    return get(request.param)
