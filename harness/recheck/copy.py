"""``recheck --copy``: the code that decides, in one file that a stranger can read in one sitting.

What belongs in it is found, not listed: from what ``loader.main`` calls, every definition that is reached by name, module by
module. Of each module its text is kept line by line, without the definitions that nothing reaches; the imports are those that are
left in use. So the file cannot fall behind the sources it is made of.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness import __version__, evidence
from harness.errors import EvidenceError

__all__ = ["Copied", "copy", "write"]

_ROOTS = (("harness.recheck", "recheck"), ("harness.recheck", "told"))
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Copied:
    """The file's text, and the modules it is made of, in its order."""

    text: str
    modules: tuple[str, ...]


def write(path: Path) -> Copied:
    """Writes the file. EvidenceError if ``path`` exists or cannot be written."""
    if path.exists():
        raise EvidenceError(f"{path} exists; name a new file")
    made = copy()
    evidence.write_atomic(path, made.text.encode())
    return made


def copy() -> Copied:
    """The file, from the sources as they are installed."""
    modules = _reached()
    head = (Path(__file__).with_name("loader.py")).read_text("utf-8")
    sections = [f"\n\n# {'=' * 20} {module.name} {'=' * 20}\n\n{module.kept_text()}" for module in modules]
    return Copied(
        f"{head}\n# harness {__version__}, {len(modules)} sections\n{''.join(sections)}", tuple(module.name for module in modules)
    )


# --- one module -----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Module:
    """A source, its statements by the name that each defines, and which of them are kept."""

    name: str
    lines: list[str]
    body: list[ast.stmt]
    defines: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # a name here: the module it is brought from, and the name there
    kept: set[ast.stmt] = field(default_factory=set)
    handed: set[str] = field(default_factory=set)  # names that it imports, for itself or to hand them on

    @classmethod
    def read(cls, name: str) -> _Module:
        path = _path(name)
        if path is None:
            raise EvidenceError(f"{name}: no source of it lies in {_PACKAGE}; --copy needs the package as files")
        text = path.read_text("utf-8")
        module = cls(name, text.splitlines(), ast.parse(text).body)
        for statement in module.body:
            for defined in _defined(statement):
                module.defines.setdefault(defined, []).append(statement)
        inside = (node for statement in module.body if not _for_types(statement) for node in ast.walk(statement))
        for node in inside:
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "harness":
                module.imports.update({alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names})
        return module

    def always(self) -> Iterator[ast.stmt]:
        """What runs when the module is imported, and has no name."""
        for statement in self.body:
            named = isinstance(statement, (ast.Import, ast.ImportFrom)) or _for_types(statement) or list(_defined(statement))
            if not named:
                yield statement

    def kept_text(self) -> str:
        """The lines of the kept statements, each with the comments before it."""
        out: list[str] = []
        end = 0
        used = self.handed | {node.id for statement in self.kept for node in ast.walk(statement) if isinstance(node, ast.Name)}
        for statement in self.body:
            start, end = end, statement.end_lineno or end
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                out += _import_left(statement, used)
            elif statement in self.kept:
                out += self.lines[start:end]
        return "\n".join(out).strip("\n") + "\n"


def _path(name: str) -> Path | None:
    below = _PACKAGE.joinpath(*name.split(".")[1:])
    return next((path for path in (below / "__init__.py", below.with_suffix(".py")) if path.is_file()), None)


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        yield statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target] if isinstance(statement, ast.AnnAssign) else []
    for target in targets:
        yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"


def _import_left(statement: ast.Import | ast.ImportFrom, used: set[str]) -> list[str]:
    """The import without the names that nothing kept uses; annotations are the loader's matter."""
    if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
        return []
    names = [alias for alias in statement.names if (alias.asname or alias.name.partition(".")[0]) in used]
    if not names:
        return []
    left = ast.Import(names) if isinstance(statement, ast.Import) else ast.ImportFrom(statement.module, names, statement.level)
    return [ast.unparse(left)]


# --- what is reached ------------------------------------------------------------------------------


class _Sources:
    """The modules by name, each read once."""

    def __init__(self) -> None:
        self.read: dict[str, _Module] = {}

    def __getitem__(self, name: str) -> _Module:
        if name not in self.read:
            self.read[name] = _Module.read(name)
        return self.read[name]

    def place(self, module: str, name: str) -> tuple[str, str]:
        """Where ``name``, seen from ``module``, is defined: a module and a name there, "" for the module itself."""
        if not name or name in self[module].defines:
            return module, name
        brought = self[module].imports.get(name, (module, name))
        if brought != (module, name):
            self[module].handed.add(name)
            return self.place(*brought)
        if _path(f"{module}.{name}") is None:
            raise EvidenceError(f"{module}: no {name!r} in it; --copy follows names that are defined at the top of a module")
        return f"{module}.{name}", ""

    def named(self, module: str, statement: ast.stmt) -> Iterator[tuple[str, str]]:
        """What the statement names, here and in other modules."""
        here = self[module]
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and (node.id in here.defines or node.id in here.imports):
                yield self.place(module, node.id)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in here.imports:
                there, name = self.place(module, node.value.id)
                if not name:
                    yield self.place(there, node.attr)


def _reached() -> tuple[_Module, ...]:
    """The modules that the roots come to, each with the statements to keep, behind those it rests on."""
    sources = _Sources()
    ahead = [sources.place(*root) for root in _ROOTS]
    while ahead:
        module, name = ahead.pop()
        wanted = [*sources[module].always(), *(sources[module].defines[name] if name else [])]
        for statement in [each for each in wanted if each not in sources[module].kept]:
            sources[module].kept.add(statement)
            ahead += sources.named(module, statement)
    order: list[_Module] = []
    _place(sources, _ROOTS[0][0], order, ())
    return tuple(order)


def _place(sources: _Sources, name: str, order: list[_Module], within: tuple[str, ...]) -> None:
    module = sources[name]
    if module in order or name in within:
        return
    for there in sorted({there for statement in module.kept for there, _ in sources.named(name, statement)}):
        _place(sources, there, order, (*within, name))
    order.append(module)
