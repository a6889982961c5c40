"""The arrows between the rooms run one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Room → rooms it may import (DESIGN: protos ← transform ← trainer ← pipeline, protos ← serving ← pipeline).
ALLOWED = {
    "protos": set(),
    "transform": {"protos"},
    "trainer": {"protos", "transform"},
    "serving": {"protos"},
    "pipeline": {"protos", "transform", "trainer", "serving"},
}
# Of transform, training code may know the names and the feature schema, not the data steps.
TRAINER_MAY_SEE = {"transform.tables", "transform.feature_schema"}


def imported_modules(source: Path) -> set[str]:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_their_arrows_allow(room: str) -> None:
    for source in (ROOT / room).rglob("*.py"):
        for module in imported_modules(source):
            other = module.split(".")[0]
            if other in ALLOWED and other != room:
                assert other in ALLOWED[room], f"{source.relative_to(ROOT)} imports {module}"


def test_trainer_knows_only_names_and_schema_of_transform() -> None:
    for source in (ROOT / "trainer").rglob("*.py"):
        seen = {module for module in imported_modules(source) if module.startswith("transform")}
        assert seen <= TRAINER_MAY_SEE, f"{source.name} imports {seen - TRAINER_MAY_SEE}"


def test_nothing_imports_the_tests_or_the_benchmarks() -> None:
    for room in ALLOWED:
        for source in (ROOT / room).rglob("*.py"):
            roots = {module.split(".")[0] for module in imported_modules(source)}
            assert not roots & {"tests", "benchmarks"}, source
