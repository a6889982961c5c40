"""The walk-through runs from its first cell to its last, and leaves what it says."""

import ast
import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "walkthrough.ipynb"
# Of one cell: the chain takes about a minute on two idle cores, far more beside other work.
_CELL_SECONDS = 900


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


def test_served_answer_is_a_table_of_ten_products_with_titles(executed: dict[str, str]) -> None:
    lines = shown_by(executed, "event_types=").splitlines()
    assert lines[0].split() == ["#", "item", "title", "price", "score"]
    # A head, a rule, ten products.
    assert len(lines) == 12


def test_visitor_without_a_history_gets_an_answer(executed: dict[str, str]) -> None:
    assert len(shown_by(executed, "client.recommend([], k=5)").splitlines()) == 7


def test_neighbours_of_a_product_are_shown(executed: dict[str, str]) -> None:
    assert len(shown_by(executed, "client.similar_items").splitlines()) == 7


def test_run_folder_holds_what_the_notebook_speaks_of(executed: dict[str, str], folder: Path) -> None:
    run = folder / "runs" / "walkthrough" / "run"
    assert executed
    assert "Against the baselines" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "export" / "recommender" / "1" / "saved_model.pb").is_file()
    assert (run / "tensorboard" / "projector" / "projector_config.pbtxt").is_file()
