"""What the documents say: compared with the code, the Makefile and the files that they link to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from smoltbot_host.data_dir import GENERATED
from smoltbot_host.settings import known_names, load
from smoltbot_worker import env
from smoltbot_worker.env import LATER, read_variables, variables
from smoltbot_worker.variables import EnvValidationError
from tests.architecture.tree import ROOT, files, none_of

CONFIGURATION = ROOT / "docs" / "configuration.md"
PAGES = sorted(files(".md"))


def shown_default(entry: Field[Any]) -> str:
    """The default as the table has it: the field's own words, or its value as one would set it."""
    if entry.metadata.get("shown"):
        return str(entry.metadata["shown"])
    assert entry.default is not MISSING, f"{entry.name} needs `shown`"
    text = f"{entry.default:g}" if isinstance(entry.default, float) else str(entry.default)
    return f"`{text}`" if text else "unset"


def expected_rows() -> list[str]:
    """The table of docs/configuration.md."""
    return ["| Variable | Default | Meaning |", "|---|---|---|"] + [
        f"| `{entry.name.upper()}` | {shown_default(entry)} | {entry.metadata['doc']} |" for entry in variables()
    ]


def section(page: Path, title: str) -> str:
    """The text under a heading, up to the next one of its level."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert found, f"{page.name} has no section {title!r}"
    return found[1]


def first_cells(text: str) -> list[str]:
    """The names in the first column of the tables of a text."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def test_configuration_lists_every_variable_with_its_default() -> None:
    rows = [line for line in section(CONFIGURATION, "Variables").splitlines() if line.startswith("|")]
    assert rows == expected_rows(), "the table should be:\n" + "\n".join(expected_rows())


def test_every_variable_is_documented_in_one_line() -> None:
    none_of(entry.name for entry in variables() if not re.fullmatch(r"[^|\n]*\w[^|\n]*", entry.metadata["doc"]))


def test_configuration_names_the_variables_of_later_versions() -> None:
    listed = re.search(r"```text\n(.*?)```", section(CONFIGURATION, "Later versions"), re.DOTALL)
    assert listed
    assert listed[1].split() == sorted(LATER)


def refused() -> list[str]:
    return [f"{name}={value}" for name, (value, _) in env._REFUSED_VALUES.items()] + list(env._REFUSED)


def test_configuration_lists_every_refused_value() -> None:
    assert first_cells(section(CONFIGURATION, "Refused values")) == refused()


@pytest.mark.parametrize("setting", refused())
def test_what_the_document_calls_refused_is_refused(setting: str) -> None:
    name, _, value = setting.partition("=")
    with pytest.raises(EnvValidationError) as caught:
        read_variables({name: value or "anything", "SUPABASE_KEY": "k", "MNEMOM_LICENSE_JWT": "j"})
    assert [line.partition(":")[0] for line in caught.value.invalid] == [name]


def test_every_known_name_is_in_the_document() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    none_of(name for name in known_names() if not re.search(rf"\b{name}\b", text))


def test_the_example_of_a_toml_file_is_accepted(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", section(CONFIGURATION, "Settings in a TOML file"), re.DOTALL)
    assert example
    file = tmp_path / "smoltbot.toml"
    file.write_text(example[1], encoding="utf-8")
    values, warnings = read_variables(load({"SMOLTBOT_CONFIG": str(file)}))
    assert (values["port"], values["shutdown_grace_s"], warnings) == (8080, 20.0, [])
    assert len(values["cors_allow_origins"]) == 2
    assert values["default_card"] == {"principal": {"type": "human"}}


def test_configuration_names_the_generated_files() -> None:
    assert first_cells(section(CONFIGURATION, "Generated files")) == list(GENERATED)


def test_configuration_describes_every_role() -> None:
    roles = first_cells(section(CONFIGURATION, "Roles"))
    assert sorted(roles) == ["all", "gateway", "scheduler"]
    for role in roles:
        assert read_variables({"SMOLTBOT_ROLE": role})[0]["smoltbot_role"] == role


def test_the_guides_name_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        code = "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`", text, re.MULTILINE | re.DOTALL))
        named = set(re.findall(r"\bmake +(?:-\w+ +|[A-Z_]+=\S+ +)*([a-z][\w-]*)", code))
        assert named, f"{page} does not say which targets there are"
        none_of(f"{page}: make {name}" for name in sorted(named - targets))


def test_the_changelog_has_room_for_the_next_version() -> None:
    assert re.search(r"^## \[?Unreleased\]?", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def without_code(text: str) -> str:
    """Markdown without its code, where brackets are no links; the number of lines stays."""
    text = re.sub(r"^(```|~~~).*?^\1", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)[^\n]*?\1", "", text)


def links(text: str) -> Iterator[tuple[int, str]]:
    """Line and target of every link and image: inline, by reference, and in HTML."""
    forms = r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)|(?:href|src)=\"([^\"]+)\""
    for number, line in enumerate(without_code(text).splitlines(), 1):
        for found in re.finditer(forms, line):
            yield number, next(group for group in found.groups() if group)


def anchors(page: Path) -> set[str]:
    """What a page can be entered at: its headings as GitHub spells them, and its own marks."""
    names: dict[str, int] = {}
    result = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", page.read_text(encoding="utf-8")))
    # The text of a heading may hold code, so only blocks are left out.
    blocks = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", blocks, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count = names.get(name, 0)
        names[name] = count + 1
        result.add(f"{name}-{count}" if count else name)
    return result


def broken(page: Path, found: Iterable[tuple[int, str]]) -> Iterator[str]:
    for line, target in found:
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.IGNORECASE):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / path.lstrip("/") if path.startswith("/") else page.parent / unquote(path)) if path else page
        where = f"{page.relative_to(ROOT)}:{line}: {target}"
        if not file.is_file() and not any(inside.is_file() for inside in file.rglob("*")):  # git keeps no empty folder
            yield f"{where} does not exist"
        elif not file.resolve().is_relative_to(ROOT):
            yield f"{where} is outside of the repository"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            yield f"{where} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    none_of(broken(page, links(page.read_text(encoding="utf-8"))))


def test_broken_links_are_seen() -> None:
    text = (
        "[a](gone.md) ![b](<gone.png>) [c](schema) `[d](code.md)` [e](https://example.org/x) [`f`](/gone.txt 'f')\n"
        "```\n[g](code.md)\n```\n"
        "[h]: missing.md\n"
        "[i](schema/README.md#migrations) [j](schema/README.md#nowhere) [k](../outside.md)"
    )
    assert list(broken(ROOT / "README.md", links(text))) == [
        "README.md:1: gone.md does not exist",
        "README.md:1: gone.png does not exist",
        "README.md:1: /gone.txt does not exist",
        "README.md:5: missing.md does not exist",
        "README.md:6: schema/README.md#nowhere has no such heading",
        "README.md:6: ../outside.md does not exist",
    ]
