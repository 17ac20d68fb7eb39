import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import node_paths

NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=8)
PARTS = st.lists(NAMES, min_size=1, max_size=5)
BASES = PARTS.flatmap(lambda parts: st.sampled_from(["/" + "/".join(parts), "C:\\" + "\\".join(parts)]))


@pytest.mark.parametrize("path", ["/", "/srv", "C:\\deer-flow", "c:/deer-flow", "\\\\server\\share", "\\\\wsl$\\x"])
def test_absolute(path: str):
    """A path is absolute in POSIX style, with a drive, or with a server."""
    assert node_paths.is_absolute(path)


@pytest.mark.parametrize("path", ["", ".", "..", "srv", "./srv", "~/srv", "C:", "C:srv", "\\srv", "1:\\srv", " /srv"])
def test_not_absolute(path: str):
    """A path that depends on a directory, a user or a drive's own directory is not absolute."""
    assert not node_paths.is_absolute(path)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/srv/a", "/srv/a"),
        ("/srv//a/./b/", "/srv/a/b"),
        ("/srv/a/../b", "/srv/b"),
        ("/../../etc", "/etc"),
        ("//srv/a", "/srv/a"),
        ("/", "/"),
        ("C:\\srv\\.\\a\\..\\b\\", "C:\\srv\\b"),
        ("C:/srv/a", "C:\\srv\\a"),
        ("\\\\server\\share\\a\\..\\b", "\\\\server\\share\\b"),
    ],
)
def test_normalise(path: str, normal: str):
    """A normal path has no `.`, no `..`, and no separator too many."""
    assert node_paths.normalise(path) == normal


@given(st.one_of(BASES, st.text(min_size=1).map(lambda text: "/" + text)))
def test_normalise_settles(path: str):
    """What is normal stays as it is."""
    normal = node_paths.normalise(path)
    assert node_paths.normalise(normal) == normal


@pytest.mark.parametrize(
    ("base", "parts", "joined"),
    [
        ("/srv", ("a", "b"), "/srv/a/b"),
        ("/srv/", ("a",), "/srv/a"),
        ("C:\\srv", ("a", "b"), "C:\\srv\\a\\b"),
        ("C:/srv", ("a", "b"), "C:/srv/a/b"),
        ("\\\\server\\share", ("a",), "\\\\server\\share\\a"),
    ],
)
def test_join(base: str, parts: tuple[str, ...], joined: str):
    """A path grows with the separators that it has."""
    assert node_paths.join(base, *parts) == joined


@pytest.mark.parametrize(
    ("path", "parent", "name"),
    [
        ("/srv/threads", "/srv", "threads"),
        ("/srv/threads/", "/srv", "threads"),
        ("C:\\deer\\threads", "C:\\deer", "threads"),
        ("C:\\deer\\threads\\", "C:\\deer", "threads"),
        ("C:/deer/threads", "C:/deer", "threads"),
    ],
)
def test_parent_and_name(path: str, parent: str, name: str):
    """A path has a parent and a name in its own style, with or without a separator at its end."""
    assert (node_paths.dirname(path), node_paths.basename(path)) == (parent, name)


@pytest.mark.parametrize(
    ("path", "base", "rest"),
    [
        ("/srv/a", "/srv", "a"),
        ("/srv/a/b/", "/srv/", "a/b"),
        ("/srv/a/../b/c", "/srv/b", "c"),
        ("//srv/a", "/srv", "a"),
        ("/etc", "/", "etc"),
        ("C:\\deer\\a\\b", "C:\\deer", "a/b"),
        ("c:/DEER/a", "C:\\deer", "a"),
        ("\\\\server\\share\\a", "\\\\server\\share", "a"),
    ],
)
def test_below(path: str, base: str, rest: str):
    """The part below a base has forward slashes, whatever the style of the path."""
    assert node_paths.relative_to(path, base) == rest


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("/srv", "/srv"),
        ("/srv/", "/srv"),
        ("/srv-other/a", "/srv"),
        ("/srv/../etc/passwd", "/srv"),
        ("/srv/a/../../etc", "/srv"),
        ("/SRV/a", "/srv"),
        ("/", "/srv"),
        ("srv/a", "/srv"),
        ("C:\\srv\\a", "/srv"),
        ("/srv/a", "C:\\srv"),
        ("D:\\srv\\a", "C:\\srv"),
        ("C:\\srv\\..\\windows", "C:\\srv"),
    ],
)
def test_not_below(path: str, base: str):
    """A base itself, its neighbours and whatever climbs out of it are not below it."""
    assert node_paths.relative_to(path, base) is None


@given(base=BASES, parts=PARTS)
def test_what_is_joined_is_below(base: str, parts: list[str]):
    """What was put below a base is found below it."""
    assert node_paths.relative_to(node_paths.join(base, *parts), base) == "/".join(parts)


@given(base=BASES, steps=st.lists(st.one_of(NAMES, st.sampled_from(["..", ".", ""])), max_size=8))
def test_nothing_climbs_out(base: str, steps: list[str]):
    """Whatever a path is made of, what is said to lie below a base names no way up, and leads to the same place."""
    path = node_paths.join(base, *(step for step in steps if step))
    rest = node_paths.relative_to(path, base)
    if rest is None:
        assert not is_inside(steps)
    else:
        assert ".." not in rest.split("/")
        assert node_paths.normalise(node_paths.join(base, *rest.split("/"))) == node_paths.normalise(path)


def is_inside(steps: list[Any]) -> bool:
    """Whether the steps, walked one by one, never leave where they began, and end deeper."""
    depth = 0
    for step in steps:
        depth += {"..": -1, ".": 0, "": 0}.get(step, 1)
        if depth < 0:
            return False
    return depth > 0
