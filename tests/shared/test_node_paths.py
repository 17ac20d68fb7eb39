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
def test_path_with_root_drive_or_server_is_absolute(path: str):
    assert node_paths.is_absolute(path)


@pytest.mark.parametrize("path", ["", ".", "..", "srv", "./srv", "~/srv", "C:", "C:srv", "\\srv", "1:\\srv", " /srv"])
def test_path_that_depends_on_a_directory_or_user_is_not_absolute(path: str):
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
def test_normalised_path_has_no_dots_and_no_extra_separators(path: str, normal: str):
    assert node_paths.normalise(path) == normal


@given(st.one_of(BASES, st.text(min_size=1).map(lambda text: "/" + text)))
def test_normalising_twice_changes_nothing(path: str):
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
def test_joined_path_keeps_the_separators_of_its_base(base: str, parts: tuple[str, ...], joined: str):
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
def test_dirname_and_basename_ignore_a_trailing_separator(path: str, parent: str, name: str):
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
def test_path_below_a_base_is_relative_to_it_with_forward_slashes(path: str, base: str, rest: str):
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
def test_path_not_below_a_base_is_relative_to_nothing(path: str, base: str):
    """Examples are the base itself, its neighbours, and paths that leave the base."""
    assert node_paths.relative_to(path, base) is None


@given(base=BASES, parts=PARTS)
def test_joined_path_is_below_its_base(base: str, parts: list[str]):
    assert node_paths.relative_to(node_paths.join(base, *parts), base) == "/".join(parts)


@given(base=BASES, steps=st.lists(st.one_of(NAMES, st.sampled_from(["..", ".", ""])), max_size=8))
def test_relative_path_has_no_parent_directory_and_leads_to_the_same_place(base: str, steps: list[str]):
    path = node_paths.join(base, *(step for step in steps if step))
    rest = node_paths.relative_to(path, base)
    if rest is None:
        assert not is_inside(steps)
    else:
        assert ".." not in rest.split("/")
        assert node_paths.normalise(node_paths.join(base, *rest.split("/"))) == node_paths.normalise(path)


def is_inside(steps: list[Any]) -> bool:
    """Return True if no step leaves the start, and the last step ends below the start."""
    depth = 0
    for step in steps:
        depth += {"..": -1, ".": 0, "": 0}.get(step, 1)
        if depth < 0:
            return False
    return depth > 0
