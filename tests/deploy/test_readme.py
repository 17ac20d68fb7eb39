"""What the documents say of settings, commands and files is what there is."""

import re
from pathlib import Path

import pytest

from shared.settings import TABLE, Setting

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_readme_has_the_table_of_settings_as_it_is():
    """Change the settings, and this failure shows the table to paste."""
    wanted = "\n".join(["| name | default | effect |", "|---|---|---|", *map(line, TABLE)])
    begin, end = "<!-- settings -->\n", "\n<!-- /settings -->"
    readme = (ROOT / "README.md").read_text()
    found = readme[readme.index(begin) + len(begin) : readme.index(end)]
    assert found == wanted, f"the table of README.md should be:\n{wanted}"


def line(row: Setting) -> str:
    value = row.default
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = f"{value:g}"
    default = f"`{value}`" if value != "" else "—"
    return f"| `{row.name}` | {default} | {row.description} |".replace("\n", " ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_make_target_that_is_named_exists(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))
    named = set(re.findall(r"(?:^|[`$;&|]\s*|=\S+ )make ([a-z][a-z-]*)", code, re.MULTILINE))
    assert named <= targets


def test_the_readme_names_the_two_commands_of_the_set_up():
    code = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    assert re.search(r"^make dev\b", code, re.MULTILINE)
    assert re.search(r"^make test\b", code, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_link_within_the_project_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), target
