"""Packages of the library import downwards only, in the order that contributing.md tells."""

import ast
from pathlib import Path

import linjax

ROOT = Path(linjax.__file__).parent
ORDER = (
    "errors", "report", "program", "dims", "exact", "chains", "net", "evidence", "fold",
    "baselines", "penalties", "frameworks", "store", "training", "cli",
)  # fmt: skip


def package(path: Path) -> str:
    first, *rest = path.relative_to(ROOT).parts
    return first if rest else path.stem


def imported(path: Path) -> set[str]:
    """The packages of linjax that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        found |= {m.split(".")[1] for m in modules if m.startswith("linjax.")}
    return found


def test_imports_point_downwards():
    wrong = [
        f"{path.relative_to(ROOT)} imports linjax.{other}"
        for path in ROOT.rglob("*.py")
        if (own := package(path)) != "__init__"
        for other in imported(path) - {own}
        if ORDER.index(other) > ORDER.index(own)
    ]
    assert not wrong


def test_every_package_is_in_the_order_and_told_of():
    packages = {package(path) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert packages == set(ORDER)
    told = (ROOT.parent / "docs" / "architecture.md").read_text()
    assert all(f"`{name}`" in told for name in ORDER)


def test_experiments_use_public_names_alone():
    allowed, folder = {*linjax.__all__, "__version__"}, ROOT.parent
    used = []
    for path in [*folder.glob("experiments/**/*.py"), *folder.glob("configs/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("linjax"):
                used += [(path.name, f"{node.module}.{alias.name}") for alias in node.names]
            elif isinstance(node, ast.Import):
                used += [(path.name, a.name) for a in node.names if a.name.startswith("linjax.")]
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "linjax":
                used.append((path.name, f"linjax.{node.attr}"))
    assert used and not [one for one in used if one[1].removeprefix("linjax.") not in allowed]
