import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import node_paths
from shared.errors import InvalidRequest
from shared.sandbox import mounts
from shared.sandbox.record import Mount
from shared.settings import Settings, read_settings

PLACE = "/mnt/acp-workspace"
PLACES = [
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


def refusal(settings: Settings, *asked: Mount) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        mounts.check_mounts(asked, settings)
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
def test_root(environment: dict[str, str], root: str):
    """Mounts come from below the base directory or, without one, from beside a directory called `threads`."""
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
def test_below_the_base(base: str, path: str):
    """What lies below the base, in the node's own style of paths, may be mounted."""
    mounts.check_mounts([Mount(path, PLACE)], based_on(base))


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
def test_not_below_the_base(base: str, path: str):
    """The base itself, its neighbours, ways out of it, other styles, and what has control characters: refused."""
    error = refusal(based_on(base), Mount(path, PLACE))
    assert error.extra == {"field": "extra_mounts[0].host_path"}
    assert repr(path) in error.detail


@pytest.mark.parametrize("path", ["/srv\\deer\\a", "/srv/deer\\a", "/srv/deer\\..\\..\\etc"])
def test_a_backslash_is_no_separator_on_posix(path: str):
    """On a POSIX node a backslash is part of a name: what it seems to separate does not lie below the base."""
    refusal(based_on(POSIX), Mount(path, PLACE))


def test_no_way_up_hides_behind_backslashes():
    """A name of backslashes and dots leads to no `..` in a claim's subPath, which Kubernetes would refuse."""
    assert ".." not in (node_paths.relative_to("/srv/deer/a\\..\\..\\etc", POSIX) or "").split("/")


@pytest.mark.parametrize("environment", [{}, {"THREADS_HOST_PATH": "/srv/deer/data"}, {"SKILLS_HOST_PATH": "/srv"}])
def test_no_base(environment: dict[str, str]):
    """Where no base is known nothing may be mounted, and the refusal says which settings are missing."""
    error = refusal(read_settings(environment), Mount("/srv/deer/a", PLACE))
    assert error.extra == {"field": "extra_mounts[0].host_path"}
    assert "DEER_FLOW_HOST_BASE_DIR" in error.detail
    assert "THREADS_HOST_PATH" in error.detail


@pytest.mark.parametrize("settings", [read_settings({}), based_on(POSIX)])
def test_none(settings: Settings):
    """Who asks for no mount is not refused any."""
    mounts.check_mounts([], settings)


def test_every_place():
    """Each of the seven places may be mounted over, all at once."""
    assert set(PLACES) == mounts.CONTAINER_PATHS
    mounts.check_mounts([Mount(f"/srv/deer/{number}", place) for number, place in enumerate(PLACES)], based_on(POSIX))


@pytest.mark.parametrize(
    "place",
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
def test_other_places(place: str):
    """Nowhere else, however near it may be."""
    error = refusal(based_on(POSIX), Mount("/srv/deer/a", "/mnt/skills/custom"), Mount("/srv/deer/b", place))
    assert error.extra == {"field": "extra_mounts[1].container_path"}


def test_a_place_twice():
    """No place is mounted over twice, not even by the same directory."""
    error = refusal(based_on(POSIX), Mount("/srv/deer/a", PLACE), Mount("/srv/deer/a", PLACE, read_only=True))
    assert error.extra == {"field": "extra_mounts[1].container_path"}
    assert "twice" in error.detail


@given(st.text(), st.text() | st.sampled_from(PLACES), st.sampled_from([POSIX, WINDOWS, SHARE]))
def test_any_text(path: str, place: str, base: str):
    """Whatever is asked for, it is refused as the caller's, or lies below the base at a place that is known."""
    try:
        mounts.check_mounts([Mount(path, place)], based_on(base))
    except InvalidRequest as error:
        field = str(error.extra["field"])
    else:
        field = ""
    assert field.startswith("extra_mounts[0].") or (
        not field and place in PLACES and node_paths.relative_to(path, base)
    )


NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=6)


@given(steps=st.lists(NAMES | st.just(".."), min_size=1, max_size=6), base=st.sampled_from([POSIX, WINDOWS]))
def test_only_what_stays_below(steps: list[str], base: str):
    """A path is allowed exactly when the node, walking it, would end below the base."""
    separator = "\\" if base == WINDOWS else "/"
    at: list[str] = base.split(separator)
    for step in steps:
        if step == "..":
            at = at[:-1] if len(at) > 1 else at
        elif step != ".":
            at = [*at, step]
    root = base.split(separator)
    is_below = len(at) > len(root) and [p.lower() for p in at[: len(root)]] == [p.lower() for p in root]
    asked = [Mount(separator.join([base, *steps]), PLACE)]
    if is_below:
        mounts.check_mounts(asked, based_on(base))
    else:
        refusal(based_on(base), *asked)
