"""Whether a definition in a chapter that bears a name of the package is what the package has under that name.

It must take the same arguments, and then either have the very same body, or be shown equal where the reader sees it:
by an assertion that compares values of both, or by the check of an exercise. What the check is worth is tested by
calling it with the package's own object, and with one that is slightly off (`test_drift.py`).
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nbformat import NotebookNode

from tests.book import gates

PACKAGE = Path(__file__).resolve().parents[2] / "ddetr_lab"
ELSEWHERE = ("benchmark", "checks", "classroom", "cli", "doctor")  # not what a chapter builds
RAISING = ("assert_close", "assert_allclose", "assert_array_equal", "assert_equal")
COMPARISONS = ("equal", "allclose", "array_equal", *RAISING)
LOOSEST = 1e-2
NOT_THE_VALUE = ("shape", "dtype", "device", "ndim", "requires_grad", "__name__", "numel", "size", "dim")

Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Namesake:
    """A definition in a chapter whose name the package has too.

    Attributes:
        name: that both have.
        cell: where the chapter defines it, for complaints.
        chapter: its definition.
        package: those of the package by full name.
        check: the check that judges it, as (module, name), if an exercise's check does.
        shown: whether an assertion compares it with the package's.
    """

    name: str
    cell: str
    chapter: Definition
    package: dict[str, Definition]
    check: tuple[str, str] | None
    shown: bool


def package_definitions(package: Path = PACKAGE) -> dict[str, dict[str, Definition]]:
    """Return the package's public functions and classes: by name, then by full name."""
    found: dict[str, dict[str, Definition]] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if len(parts) > 1 and parts[1] in ELSEWHERE:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, {})[f"{module}.{node.name}"] = node
    return found


def bare(node: ast.AST) -> str:
    """Return a definition as text without what does not change its results: docstrings, annotations, decorators."""
    node = ast.parse(ast.unparse(node))
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            each.decorator_list = []
            first = each.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(each.body) > 1:
                each.body = each.body[1:]
        if isinstance(each, ast.FunctionDef):
            each.returns = None
        if isinstance(each, ast.arg):
            each.annotation = None
    return ast.dump(node)


def parameters(node: Definition) -> tuple[list[str], list[str]]:
    """Return the arguments that must be given, and those that may be; of a class those of its `__init__`."""
    if isinstance(node, ast.ClassDef):
        made = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        return parameters(made[0]) if made else ([], [])
    names = [each.arg for each in (*node.args.posonlyargs, *node.args.args) if each.arg != "self"]
    needed = len(names) - len(node.args.defaults)
    late = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    keywords = [(each.arg, default is not None) for each, default in late]
    return (
        names[:needed] + [name for name, has in keywords if not has],
        names[needed:] + [name for name, has in keywords if has],
    )


def same_signature(chapter: Definition, package: Definition) -> bool:
    """Whether a call written for the chapter's definition is one for the package's."""
    (needed, may), (their_needed, their_may) = parameters(chapter), parameters(package)
    return needed[: len(their_needed)] == their_needed and set(needed + may) <= set(their_needed + their_may)


@dataclass
class Reader:
    """Reads the cells of a chapter in order and keeps whose value each name holds.

    Attributes:
        name: of the definition that is followed.
        owners: whose value a name holds: subsets of {"chapter", "package"}.
        modules: names that stand for modules of the package.
        equal: pairs of expressions that an assertion found equal, with the owners of each.
        check: the last check that was given the definition.
    """

    name: str
    owners: dict[str, frozenset[str]] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    equal: list[tuple[tuple[str, frozenset[str]], tuple[str, frozenset[str]]]] = field(default_factory=list)
    check: tuple[str, str] | None = None

    def owner(self, node: ast.AST) -> frozenset[str]:
        """Return whose values an expression is made of; a shape or a type is nobody's value."""
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in self.modules:
                return frozenset({"package"}) if node.attr == self.name else frozenset()
            return frozenset() if node.attr in NOT_THE_VALUE else self.owner(node.value)
        if isinstance(node, ast.Name):
            return self.owners.get(node.id, frozenset())
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("len", "type", "id", "callable", "repr"):
            return frozenset()
        return frozenset().union(*(self.owner(child) for child in ast.iter_child_nodes(node)))

    def read(self, node: ast.stmt) -> None:
        """Take one statement; what stands under an `if` or in a `try` may never run, and shows nothing."""
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.owners[node.name] = frozenset({"chapter"}) if node.name == self.name else self.owner(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.read_import(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for each in (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)):
                self.owners[each.id] = self.owner(node.value)
        elif isinstance(node, ast.Assert):
            self.read_claim(node.test)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func).rpartition(".")[2] in RAISING:
                self.read_claim(node.value)
            self.read_check(node.value)
        elif isinstance(node, ast.For | ast.With):
            for each in node.body:
                self.read(each)

    def read_import(self, node: ast.Import | ast.ImportFrom) -> None:
        """Note modules of the package, and the object itself under whatever name."""
        for alias in node.names:
            bound = alias.asname or alias.name
            self.owners.pop(bound, None)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddetr_lab"):
                if alias.name == self.name:
                    self.owners[bound] = frozenset({"package"})
                else:
                    self.modules.add(bound)
            elif alias.name.startswith("ddetr_lab"):
                self.modules.add(bound)

    def read_claim(self, node: ast.expr) -> None:
        """Note which two expressions an assertion holds equal, unless it tolerates anything."""
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            for each in node.values:
                self.read_claim(each)
            return
        pair: list[ast.expr] = []
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
            pair = [node.left, node.comparators[0]]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in COMPARISONS:
            loose = [each for each in node.keywords if each.arg in ("atol", "rtol")]
            if all(isinstance(each.value, ast.Constant) and each.value.value <= LOOSEST for each in loose):
                pair = list(node.args[:2])
            elif isinstance(node.func, ast.Attribute) and len(node.args) == 1:
                pair = [node.func.value, node.args[0]]
        if len(pair) == 2:
            one, other = ((ast.dump(each), self.owner(each)) for each in pair)
            self.equal.append((one, other))

    def read_check(self, node: ast.Call) -> None:
        """Note `checks.name(name)`, the check of an exercise that is given the definition itself."""
        given = [each for each in node.args if isinstance(each, ast.Name) and each.id == self.name]
        module, _, check = ast.unparse(node.func).rpartition(".")
        if given and self.owners.get(self.name) == {"chapter"} and module in self.modules:
            self.check = (module, check)

    def shown(self) -> bool:
        """Whether a value of the chapter's alone was found equal, directly or by steps, to one of the package's."""
        reached = {text for pair in self.equal for text, owners in pair if owners == {"chapter"}}
        while True:
            more = {text for pair in self.equal if {pair[0][0], pair[1][0]} & reached for text, _ in pair}
            if more <= reached:
                break
            reached |= more
        return any(text in reached and owners == {"package"} for pair in self.equal for text, owners in pair)


def namesakes(notebook: NotebookNode, package: dict[str, dict[str, Definition]]) -> Iterator[Namesake]:
    """Yield the definitions of a chapter that bear a name of the package."""
    cells = [(name, ast.parse(cell.source)) for name, cell in gates.code_cells(notebook)]
    text = "\n".join(cell.source for _, cell in gates.code_cells(notebook))
    module = re.search(r"from ddetr_lab\.checks import (chapter\d\d)", text)
    for cell, tree in cells:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in package:
                reader = Reader(node.name)
                for statement in (each for _, other in cells for each in other.body):
                    reader.read(statement)
                check = (module[1], reader.check[1]) if reader.check and module else None
                yield Namesake(node.name, cell, node, package[node.name], check, reader.shown())


def complaints(namesake: Namesake, agreed: frozenset[tuple[str, str]] = frozenset()) -> list[str]:
    """Return what is wrong with one of them.

    Args:
        namesake: the definition.
        agreed: checks that are known to hold the package's object right and others wrong, as (module, name).
    """
    if namesake.check in agreed:
        return []
    fitting = [each for each in namesake.package.values() if same_signature(namesake.chapter, each)]
    if not fitting:
        return [f"{namesake.cell} defines {namesake.name} with other arguments than {', '.join(namesake.package)}"]
    if namesake.shown or any(bare(each) == bare(namesake.chapter) for each in fitting):
        return []
    return [f"{namesake.cell} defines {namesake.name}, and nothing shows that it equals {', '.join(namesake.package)}"]
