"""Documents: settings, commands, links, terms and words agree with the repository."""

import re
from pathlib import Path

import pytest

from shared.settings import TABLE, Setting

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "RELEASE.md", "SECURITY.md")),
    *sorted(DOCS.rglob("*.md")),
]
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
README_LINES = 150
BANNED = re.compile(
    r"\b(anew|borne|hence|lately|lest|mend|mended|mends|perhaps|told|wanting|whoever|for ever)\b", re.IGNORECASE
)
"""Words of docs/style.md that have no good use. `say`, `should` and `so` depend on the sentence."""

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def test_settings_document_has_the_table_of_the_code():
    """After a change of the settings, this failure shows the table to paste."""
    expected = "\n".join(["| name | default | effect |", "|---|---|---|", *map(table_row, TABLE)])
    begin, end = "<!-- settings -->\n", "\n<!-- /settings -->"
    text = (DOCS / "settings.md").read_text()
    table = text[text.index(begin) + len(begin) : text.index(end)]
    assert table == expected, f"the table of docs/settings.md must be:\n{expected}"


def table_row(row: Setting) -> str:
    value = row.default
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = f"{value:g}"
    default = f"`{value}`" if value != "" else "—"
    return f"| `{row.name}` | {default} | {row.description} |".replace("\n", " ")


@each_document
def test_named_make_targets_exist(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", document.read_text(), re.DOTALL))
    named = set(re.findall(r"(?:^|[`$;&|]\s*|=\S+ )make ([a-z][a-z-]*)", code, re.MULTILINE))
    assert named <= targets


@each_document
def test_named_settings_exist(document):
    """A name in capitals that ends as a setting does is a setting, or stands in another program's words."""
    names = {row.name for row in TABLE}
    prefixes = tuple({name.partition("_")[0] + "_" for name in names})
    named = {
        name
        for name in re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)", document.read_text())
        if name.startswith(prefixes)
    }
    assert named - OF_OTHERS <= names


OF_OTHERS = {"PROVISIONER_UID", "PROVISIONER_GID", "REDIS_PASSWORD"}
"""Variables of docker-compose-dev.yaml and of the Redis component."""


@each_document
def test_named_files_exist(document):
    """A path in backquotes that starts with a folder of the repository leads to a file or a folder."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for path in re.findall(r"`((?:api|worker|shared|deploy|tests|docs)/[\w./-]*)`", prose):
        assert (ROOT / path).exists(), path


def test_log_events_that_the_runbooks_quote_exist():
    """A quoted event consists of lower-case words; an operator looks for it with grep."""
    quoted = re.findall(r"`([a-z]+(?:;? [a-z]+)+)`", (DOCS / "runbooks.md").read_text())
    code = "".join(path.read_text() for part in ("api", "shared", "worker") for path in (ROOT / part).rglob("*.py"))
    events = {event for event in quoted if event.partition(" ")[0] not in COMMANDS}
    assert len(events) >= EVENTS_QUOTED
    for event in events:
        assert f'"{event}' in code, event


COMMANDS = {"appendonly", "docker", "kubectl"}
EVENTS_QUOTED = 4
"""Guards the expression above: it must find the events."""


def test_readme_names_the_two_commands():
    code = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    assert re.search(r"^make dev\b", code, re.MULTILINE)
    assert re.search(r"^make test\b", code, re.MULTILINE)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@each_document
def test_links_within_the_project_lead_to_a_file_and_a_heading(document):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", document.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"


def anchors(document: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_documents_use_no_banned_word(document):
    """Code and quoted counter-examples are left out."""
    prose = re.sub(r"```.*?```|`[^`\n]+`|\"[^\"]*\"", "", document.read_text(), flags=re.DOTALL)
    assert not BANNED.findall(prose)


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_documents_link_to_the_glossary(document):
    if document.name != "glossary.md":
        assert "](glossary.md" in document.read_text()


def test_index_lists_every_document():
    index = (DOCS / "README.md").read_text()
    for document in DOCS.rglob("*.md"):
        if document != DOCS / "README.md":
            assert f"]({document.relative_to(DOCS)})" in index


@pytest.mark.parametrize("document", DECISIONS, ids=lambda path: path.name)
def test_decision_has_a_number_a_status_and_three_parts(document):
    text = document.read_text()
    number, status = int(document.name[:4]), re.search(r"^Status: (?:accepted|amended)", text, re.MULTILINE)
    assert text.startswith(f"# {number}. ")
    assert status
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]


def test_decisions_are_numbered_without_gaps():
    assert [int(document.name[:4]) for document in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_glossary_is_sorted_and_defines_each_term_once():
    terms = re.findall(r"^## (.+)$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    *terms, reserved = terms
    assert reserved == "Reserved terms"
    assert terms == sorted(set(terms))
