"""The walk-through runs from its first cell to its last, and leaves what it says."""

import ast
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "walkthrough.ipynb"
# Of one cell: the chain takes about a minute on two idle cores, far more beside other work.
_CELL_SECONDS = 900
PACKAGES = ("pipeline", "trainer", "serving", "transform")


@pytest.fixture(scope="module")
def stored() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walkthrough")


@pytest.fixture(scope="module")
def executed(stored: NotebookNode, folder: Path) -> dict[str, str]:
    """Text that each code cell printed or showed, by the cell's source; a failing cell fails the fixture."""
    notebook = nbformat.from_dict(json.loads(json.dumps(stored)))
    client = NotebookClient(notebook, timeout=_CELL_SECONDS, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return {
        cell.source: "".join(
            output.get("text", "") + output.get("data", {}).get("text/plain", "")
            for output in cell.outputs
            if output.get("name") != "stderr"
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def shown_by(executed: dict[str, str], call: str) -> str:
    return next(text for source, text in executed.items() if call in source)


def test_notebook_is_stored_without_outputs(stored: NotebookNode) -> None:
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_notebook_defines_nothing(stored: NotebookNode) -> None:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    trees = [ast.parse(cell.source) for cell in stored.cells if cell.cell_type == "code"]
    assert not [node for tree in trees for node in ast.walk(tree) if isinstance(node, definitions)]


@pytest.fixture(scope="module")
def tree(stored: NotebookNode) -> ast.Module:
    """All code cells as one program."""
    return ast.parse("\n".join(cell.source for cell in stored.cells if cell.cell_type == "code"))


@pytest.fixture(scope="module")
def imported(tree: ast.Module) -> dict[str, Any]:
    """What the notebook imports, by name."""
    names: dict[str, Any] = {}
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), str(NOTEBOOK), "exec"), names)
    return names


def calls_of_ours(tree: ast.Module, imported: dict[str, Any]) -> Iterator[tuple[Callable[..., Any], ast.Call]]:
    """Calls of what is imported from Tandem's packages, and of the methods of objects that the notebook makes of it."""
    ours = {name: value for name, value in imported.items() if inspect.isclass(value) or inspect.isfunction(value)}
    ours = {name: value for name, value in ours.items() if value.__module__.split(".")[0] in PACKAGES}
    objects: dict[str, Any] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign([ast.Name(name)], ast.Call(ast.Name(called))) if inspect.isclass(ours.get(called)):
                objects[name] = ours[called]
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Name(name)) if name in ours:
                yield ours[name], node
            case ast.Call(ast.Attribute(ast.Name(name), method)) if name in objects:
                # Bound to anything, so that the signature begins behind `self`.
                yield getattr(objects[name], method).__get__(object()), node


def test_calls_fit_the_functions_they_call(tree: ast.Module, imported: dict[str, Any]) -> None:
    called = set()
    for function, call in calls_of_ours(tree, imported):
        keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        inspect.signature(function).bind(*call.args, **keywords)
        called.add(function.__name__)
    assert {"simulate", "run", "recommend", "similar_items", "wait_until_available", "answer_table"} <= called


def test_configuration_is_accepted(tree: ast.Module, imported: dict[str, Any]) -> None:
    (call,) = (call for function, call in calls_of_ours(tree, imported) if function.__name__ == "load_config")
    config = eval(compile(ast.Expression(call), str(NOTEBOOK), "eval"), imported)
    assert (config.name, config.retrieval.training.epochs) == ("walkthrough", 6)


@pytest.mark.slow
def test_served_answer_is_a_table_of_ten_products_with_titles(executed: dict[str, str]) -> None:
    lines = shown_by(executed, "event_types=").splitlines()
    assert lines[0].split() == ["#", "item", "title", "price", "score"]
    # A head, a rule, ten products.
    assert len(lines) == 12


@pytest.mark.slow
def test_visitor_without_a_history_gets_an_answer(executed: dict[str, str]) -> None:
    assert len(shown_by(executed, "client.recommend([], k=5)").splitlines()) == 7


@pytest.mark.slow
def test_neighbours_of_a_product_are_shown(executed: dict[str, str]) -> None:
    assert len(shown_by(executed, "client.similar_items").splitlines()) == 7


@pytest.mark.slow
def test_run_folder_holds_what_the_notebook_speaks_of(executed: dict[str, str], folder: Path) -> None:
    run = folder / "runs" / "walkthrough" / "run"
    assert executed
    assert "Against the baselines" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "export" / "recommender" / "1" / "saved_model.pb").is_file()
    assert (run / "tensorboard" / "projector" / "projector_config.pbtxt").is_file()
