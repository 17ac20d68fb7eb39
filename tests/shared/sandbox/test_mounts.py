import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import node_paths
from shared.errors import InvalidRequest
from shared.sandbox import mounts
from shared.sandbox.record import Mount
from shared.settings import Settings, read_settings

CONTAINER_PATH = "/mnt/acp-workspace"
CONTAINER_PATHS = [
    "/mnt/acp-workspace",
    "/mnt/skills/custom",
    "/mnt/skills/integrations",
    "/mnt/integrations/lark-cli/config",
    "/mnt/integrations/lark-cli/config/locks",
    "/mnt/integrations/lark-cli/data",
    "/mnt/integrations/lark-cli/runtime",
]
POSIX = "/srv/deer"
WINDOWS = "C:\\deer"
SHARE = "\\\\server\\share\\deer"


def based_on(base: str) -> Settings:
    return read_settings({"DEER_FLOW_HOST_BASE_DIR": base})


def refusal(settings: Settings, *requested: Mount) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        mounts.check_mounts(requested, settings)
    return caught.value


@pytest.mark.parametrize(
    ("environment", "root"),
    [
        ({}, ""),
        ({"DEER_FLOW_HOST_BASE_DIR": "/srv/deer"}, "/srv/deer"),
        ({"DEER_FLOW_HOST_BASE_DIR": "/srv/deer", "THREADS_HOST_PATH": "/other/threads"}, "/srv/deer"),
        ({"THREADS_HOST_PATH": "/srv/deer/threads"}, "/srv/deer"),
        ({"THREADS_HOST_PATH": "/srv/deer/threads/"}, "/srv/deer"),
        ({"THREADS_HOST_PATH": "/srv/deer//threads/."}, "/srv/deer"),
        ({"THREADS_HOST_PATH": "C:\\deer\\threads"}, "C:\\deer"),
        ({"THREADS_HOST_PATH": "C:\\deer\\threads\\"}, "C:\\deer"),
        ({"THREADS_HOST_PATH": "C:/deer/threads"}, "C:\\deer"),
        ({"THREADS_HOST_PATH": "\\\\server\\share\\deer\\threads"}, "\\\\server\\share\\deer"),
        ({"THREADS_HOST_PATH": "/srv/deer/mythreads"}, ""),
        ({"THREADS_HOST_PATH": "/srv/deer/threads2"}, ""),
        ({"THREADS_HOST_PATH": "/srv/threads/deer"}, ""),
        ({"THREADS_HOST_PATH": "/srv/deer/Threads"}, ""),
        ({"SKILLS_HOST_PATH": "/srv/skills"}, ""),
    ],
    ids=str,
)
def test_root_is_the_base_directory_or_the_parent_of_threads(environment: dict[str, str], root: str):
    assert mounts.root(read_settings(environment)) == root


@pytest.mark.parametrize(
    ("base", "path"),
    [
        (POSIX, "/srv/deer/a"),
        (POSIX, "/srv/deer/a/b/"),
        (POSIX, "/srv//deer/./a"),
        (POSIX, "//srv/deer/a"),
        (POSIX, "/srv/deer/a/../b"),
        (POSIX, "/srv/other/../deer/a"),
        (POSIX, "/srv/deer/..a"),
        (POSIX, "/srv/deer/a b é"),
        ("/srv/deer/", "/srv/deer/a"),
        (WINDOWS, "C:\\deer\\a"),
        (WINDOWS, "C:/deer/a"),
        (WINDOWS, "c:\\DEER\\a"),
        (WINDOWS, "C:\\deer\\a\\..\\b"),
        ("C:/deer", "C:\\deer\\a"),
        (SHARE, "\\\\server\\share\\deer\\a"),
        (SHARE, "\\\\SERVER\\Share\\deer\\a"),
    ],
)
def test_host_path_below_the_base_is_allowed(base: str, path: str):
    """Paths have the style of the node's system."""
    mounts.check_mounts([Mount(path, CONTAINER_PATH)], based_on(base))


@pytest.mark.parametrize(
    ("base", "path"),
    [
        *((POSIX, path) for path in ("", ".", "a", "srv/deer/a", "./srv/deer/a", "~/a", " /srv/deer/a")),
        *((POSIX, path) for path in ("/", "/srv", "/srv/deer", "/srv/deer/", "/srv/deer/.", "/srv/deer/a/..")),
        *((POSIX, path) for path in ("/srv/deerX", "/srv/deerX/a", "/srv/dee", "/srv/Deer/a", "/etc/passwd")),
        *((POSIX, path) for path in ("/srv/deer/../a", "/srv/deer/a/../../b", "/srv/deer/../deerX/a", "/../srv/dee/a")),
        *((POSIX, path) for path in ("C:\\srv\\deer\\a", "\\\\srv\\deer\\a", "\\srv\\deer\\a")),
        *((POSIX, f"/srv/deer/a{control}b") for control in ("\x00", "\n", "\r", "\t", "\x1b", "\x7f")),
        *((WINDOWS, path) for path in ("C:\\deer", "C:\\deerX\\a", "D:\\deer\\a", "C:\\deer\\..\\a", "/deer/a")),
        *((WINDOWS, path) for path in ("C:deer\\a", "\\deer\\a", "C:", "\\\\?\\C:\\deer\\a", "C:\\deer\\a\x00")),
        *((SHARE, path) for path in (SHARE, "\\\\server\\share\\a", "\\\\other\\share\\deer\\a", SHARE + "\\..\\a")),
    ],
    ids=repr,
)
def test_host_path_not_below_the_base_is_refused_with_field_and_value(base: str, path: str):
    """The base itself, its neighbours, ways out of it, other styles and control characters are refused."""
    error = refusal(based_on(base), Mount(path, CONTAINER_PATH))
    assert error.extra == {"field": "extra_mounts[0].host_path"}
    assert repr(path) in error.detail


@pytest.mark.parametrize("path", ["/srv\\deer\\a", "/srv/deer\\a", "/srv/deer\\..\\..\\etc"])
def test_backslash_is_no_separator_on_posix(path: str):
    """On a POSIX node a backslash is part of a name."""
    refusal(based_on(POSIX), Mount(path, CONTAINER_PATH))


def test_backslashes_and_dots_give_no_parent_directory_in_a_relative_path():
    """Kubernetes would refuse `..` in the subPath of a volume claim."""
    assert ".." not in (node_paths.relative_to("/srv/deer/a\\..\\..\\etc", POSIX) or "").split("/")


@pytest.mark.parametrize("environment", [{}, {"THREADS_HOST_PATH": "/srv/deer/data"}, {"SKILLS_HOST_PATH": "/srv"}])
def test_mount_without_a_base_is_refused_with_the_missing_settings(environment: dict[str, str]):
    error = refusal(read_settings(environment), Mount("/srv/deer/a", CONTAINER_PATH))
    assert error.extra == {"field": "extra_mounts[0].host_path"}
    assert "DEER_FLOW_HOST_BASE_DIR" in error.detail
    assert "THREADS_HOST_PATH" in error.detail


@pytest.mark.parametrize("settings", [read_settings({}), based_on(POSIX)])
def test_empty_list_of_mounts_is_allowed(settings: Settings):
    mounts.check_mounts([], settings)


def test_all_seven_container_paths_are_allowed_at_once():
    assert set(CONTAINER_PATHS) == mounts.CONTAINER_PATHS
    mounts.check_mounts(
        [Mount(f"/srv/deer/{number}", container_path) for number, container_path in enumerate(CONTAINER_PATHS)],
        based_on(POSIX),
    )


@pytest.mark.parametrize(
    "container_path",
    [
        "",
        "/",
        "/mnt",
        "/mnt/skills",
        "/mnt/skills/public",
        "/mnt/user-data",
        "/mnt/acp-workspace/",
        "/mnt//acp-workspace",
        "/mnt/./acp-workspace",
        "/mnt/skills/../acp-workspace",
        "mnt/acp-workspace",
        "/MNT/acp-workspace",
        "/mnt/acp-workspace\x00",
        "/mnt/acp-workspace\n",
        "/mnt/integrations/lark-cli",
        "\\mnt\\acp-workspace",
    ],
)
def test_other_container_path_is_refused(container_path: str):
    error = refusal(based_on(POSIX), Mount("/srv/deer/a", "/mnt/skills/custom"), Mount("/srv/deer/b", container_path))
    assert error.extra == {"field": "extra_mounts[1].container_path"}


def test_container_path_used_twice_is_refused():
    """Even mounts of the same directory are refused."""
    error = refusal(
        based_on(POSIX), Mount("/srv/deer/a", CONTAINER_PATH), Mount("/srv/deer/a", CONTAINER_PATH, read_only=True)
    )
    assert error.extra == {"field": "extra_mounts[1].container_path"}
    assert "twice" in error.detail


@given(st.text(), st.text() | st.sampled_from(CONTAINER_PATHS), st.sampled_from([POSIX, WINDOWS, SHARE]))
def test_any_text_is_refused_with_its_field_or_is_below_the_base(path: str, container_path: str, base: str):
    try:
        mounts.check_mounts([Mount(path, container_path)], based_on(base))
    except InvalidRequest as error:
        field = str(error.extra["field"])
    else:
        field = ""
    assert field.startswith("extra_mounts[0].") or (
        not field and container_path in CONTAINER_PATHS and node_paths.relative_to(path, base)
    )


NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=6)


@given(steps=st.lists(NAMES | st.just(".."), min_size=1, max_size=6), base=st.sampled_from([POSIX, WINDOWS]))
def test_path_is_allowed_exactly_if_its_steps_end_below_the_base(steps: list[str], base: str):
    separator = "\\" if base == WINDOWS else "/"
    position: list[str] = base.split(separator)
    for step in steps:
        if step == "..":
            position = position[:-1] if len(position) > 1 else position
        elif step != ".":
            position = [*position, step]
    root = base.split(separator)
    is_below = len(position) > len(root) and [p.lower() for p in position[: len(root)]] == [p.lower() for p in root]
    requested = [Mount(separator.join([base, *steps]), CONTAINER_PATH)]
    if is_below:
        mounts.check_mounts(requested, based_on(base))
    else:
        refusal(based_on(base), *requested)
