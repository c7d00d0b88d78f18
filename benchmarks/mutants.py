"""The mutants of a module: those of mutmut's operators, also in constants and under decorators."""

import ast
from contextlib import suppress
from itertools import accumulate
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m
from libcst.metadata import CodeRange, MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators

# Cannot change a result, or only texts that people read.
_UNTOUCHED = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom, cst.Raise)
_TYPE_NAME = m.Assign([m.AssignTarget(m.Name(m.MatchRegex("[A-Z][a-z].*")))], m.Subscript())  # read by mypy alone
_CHECKED = ("len", "isinstance", "zip")  # other arguments are errors at once, or only take a check away


class Mutant(NamedTuple):
    """A changed module: its code, the changed line's number, the function around it, the line before and after."""

    code: str
    line: int
    place: str
    old: str
    new: str


class _Changes(cst.CSTVisitor):
    """Collects what the operators make of each node, with its line and the function around it."""

    METADATA_DEPENDENCIES = (WhitespaceInclusivePositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[CodeRange, str, cst.CSTNode]] = []
        self.names: list[str] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Change the node, and go on to its children."""
        if isinstance(node, _UNTOUCHED) or (isinstance(node, cst.SimpleString) and " " in node.value):
            return False
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in _CHECKED:
            return True
        if m.matches(node, _TYPE_NAME | m.AnnAssign(annotation=m.Annotation(m.Name("TypeAlias")))):
            return False
        if isinstance(node, cst.Arg) and node.keyword is not None and node.keyword.value == "strict":
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.names.append(node.name.value)
        where = self.get_metadata(WhitespaceInclusivePositionProvider, node)
        for kind, operator in mutation_operators:
            changed = list(operator(node)) if isinstance(node, kind) else []
            kept = changed[:1] if kind is cst.BaseString else changed  # one other string is enough
            self.found += [(where, ".".join(self.names), one) for one in kept]
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """Leave a function or class."""
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self.names.pop()


def mutants_of(source: str) -> list[Mutant]:
    """All mutants of a module's source that are other programs than it and each other."""
    wrapper, changes = MetadataWrapper(cst.parse_module(source)), _Changes()
    wrapper.visit(changes)
    starts = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    found: dict[str, Mutant | None] = {ast.dump(ast.parse(source)): None}
    for where, place, node in changes.found:
        first, last = (starts[end.line - 1] + end.column for end in (where.start, where.end))
        code = source[:first] + wrapper.module.code_for_node(node) + source[last:]
        with suppress(SyntaxError):
            program = ast.dump(ast.parse(code))
            found.setdefault(program, Mutant(code, where.start.line, place, *_changed_lines(source, code)))
    return [mutant for mutant in found.values() if mutant]


def _changed_lines(before: str, after: str) -> tuple[str, str]:
    """The lines in which two sources differ, each as one line."""
    old, new, start, end = before.splitlines(), after.splitlines(), 0, 0
    least = min(len(old), len(new))
    while start < least and old[start] == new[start]:
        start += 1
    while end < least - start and old[-1 - end] == new[-1 - end]:
        end += 1
    one, other = (" ".join(map(str.strip, lines[start : len(lines) - end])) for lines in (old, new))
    return one, other
