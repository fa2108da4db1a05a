"""The order of the rooms: a file imports from its own room, or from one above it here.

A room is a folder of a package, or a file that lies beside the folders.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_FILES = 12  # in a folder, besides __init__.py
ROOMS = {
    package: order.split()
    for package, order in {
        "runtime/hsi_runtime": """
            errors files machine scenes camera model matching walk engines output
            follow_options request planning pipeline follow batch reports option_values
            parts command_line api cli
        """,
        "train/hsi_train": """
            recipe processes layers changes data measuring splitting method linear
            fitting methods run_folder target report building rivals inputs finishing
            training several accuracy simulate api cli __main__
        """,
        "export/hsi_export": """
            linear_path tracing activations cost half precision compact parity package
            exporting cli
        """,
    }.items()
}


def imports(package: str) -> dict[str, set[str]]:
    """Return the modules of a package, and the modules of it that each imports.

    Imports inside functions and for types only count, too.
    """
    root = ROOT / package
    files = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts): path
        for path in sorted(root.rglob("*.py"))
    }
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        wanted: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {f if f in modules else str(node.module) for f in full}
        found[name] = {w for w in wanted if w in modules and w != root.name}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_downward_only(package: str) -> None:
    order, found = ROOMS[package], imports(package)
    top = package.split("/")[1]
    assert {room(m) for m in found if m != top} == set(order)
    upward = [
        f"{module} imports {other}"
        for module, others in found.items()
        for other in others
        if module != top and order.index(room(other)) > order.index(room(module))
    ]
    assert not upward


@pytest.mark.parametrize("package", ROOMS)
def test_no_import_goes_round_in_a_circle(package: str) -> None:
    TopologicalSorter(imports(package)).prepare()  # raises CycleError


@pytest.mark.parametrize("package", ROOMS)
def test_no_folder_is_crowded(package: str) -> None:
    folders = {path.parent for path in (ROOT / package).rglob("*.py")}
    counts = {str(f): len([*f.glob("[!_]*.py")]) for f in sorted(folders)}
    assert not {f: n for f, n in counts.items() if n > MOST_FILES}
