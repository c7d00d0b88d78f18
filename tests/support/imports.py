"""Which modules of the project a module imports, read from the source and followed to the end."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A change of these retrains nothing: they word errors, show progress, write files whole, draw pages, record runs, read
# options, and find folders, that of kept work among them (tests/test_identity.py: only of the same work). What a stage
# computes from its deps and params is the same bytes whatever they do.
CANNOT_CHANGE_A_RESULT = (
    "supcam/errors.py",
    "supcam/files.py",
    "supcam/identity.py",
    "supcam/pages",
    "supcam/processes.py",
    "supcam/progress.py",
    "supcam/stages/command.py",
    "supcam/stages/stage.py",
    "supcam/stages/workspace.py",
    "supcam/tracking",
    "supcam/workers.py",
)


def module_name(path: Path) -> str:
    """Dotted name of a source file below the project root."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_path(name: str) -> Path | None:
    """Source file of one of the project's modules, None for anything else."""
    base = ROOT.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def direct_imports(path: Path) -> frozenset[str]:
    """Project modules that the file imports anywhere, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.update(name for name in names if name.split(".")[0] in {"supcam", "pipelines"} and module_path(name))
    return frozenset(found)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    """What an import is from, a relative one (``from ..errors``) resolved."""
    if not node.level:
        return node.module or ""
    package = path.relative_to(ROOT).parent.parts
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def all_imports(path: Path) -> set[str]:
    """Project modules reached from the file, itself left out."""
    seen: set[str] = set()
    queue = list(direct_imports(path))
    while queue:
        name = queue.pop()
        # The package itself resolves its one name lazily: importing a module below it reaches nothing more.
        if name in seen or name == "supcam":
            continue
        seen.add(name)
        source = module_path(name)
        assert source is not None
        queue.extend(direct_imports(source))
    return seen
