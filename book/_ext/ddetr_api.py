"""The reference pages: which module stands on which, and docstrings made ready for Sphinx.

A page says ```` ```{api-modules} 2 15 ``` ```` and gets one section for each module that chapters 2 and 15 build: the
chapter is the first one that the module's docstring names, so that a new module finds its page by itself. The words
`every`, `benchmark`, `checks` and `classroom` stand for modules used in every chapter and for those folders.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmark", "checks", "classroom")
PLACEHOLDER = re.compile(r"^```\{api-(modules|overview)\}(.*)\n```$", re.M)


@dataclass(frozen=True)
class Module:
    """One module of the package, read without importing it.

    Attributes:
        name: with `ddetr_lab.` in front.
        summary: the first line of its docstring.
        chapters: the numbers in its docstring's "Built in ..." and "Used in ...", ascending as they stand there.
        key: what an `api-modules` line calls it by: a folder, the first chapter, or `every`.
        passed_on: full names of what it exports and another module defines.
        described: the functions and classes that it exports and defines.
    """

    name: str
    summary: str
    chapters: tuple[int, ...]
    key: str
    passed_on: tuple[str, ...] = ()
    described: tuple[str, ...] = ()


def read_modules(package: Path = ROOT / "ddetr_lab") -> list[Module]:
    """Return every module below the package's folder, by name; the package itself is left out."""
    modules = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name == package.name:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstring = ast.get_docstring(tree) or ""
        chapters = chapters_named(docstring)
        folder = parts[1] if len(parts) > 2 else ""
        key = folder if folder in FOLDERS else str(chapters[0]) if chapters else "every"
        summary = docstring.split("\n\n")[0].replace("\n", " ")
        modules.append(Module(name, summary, chapters, key, passed_on(tree), described(tree)))
    return modules


def exported(tree: ast.Module) -> list[str]:
    """Return the names in a module's `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def described(tree: ast.Module) -> tuple[str, ...]:
    """Return the functions and classes that a module exports and defines; Triton's kernels are neither to Sphinx."""
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not any("jit" in ast.unparse(each) for each in node.decorator_list)
    }
    return tuple(name for name in exported(tree) if name in defined)


def passed_on(tree: ast.Module) -> tuple[str, ...]:
    """Return the full names of exports that a module imports from elsewhere in the package."""
    homes = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ddetr_lab.")
        for alias in node.names
    }
    return tuple(homes[name] for name in exported(tree) if name in homes and not name.isupper())


def chapters_named(docstring: str) -> tuple[int, ...]:
    """Return the chapters of a docstring's "Built in chapters 6 to 8." and the like, none for "every chapter"."""
    built = " ".join(re.findall(r"(?:Built|Used) in ([^.]*)", docstring))
    numbers: list[int] = []
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", built):
        numbers += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(numbers))


def chapter_pages(book: Path = ROOT / "book") -> dict[int, str]:
    """Return the pages of the chapters that exist, by number."""
    return {int(path.stem[:2]): path.stem for path in sorted(book.glob("[0-9][0-9]_*.ipynb"))}


def modules_section(words: str, modules: list[Module]) -> str:
    """Return the Markdown of an `api-modules` line: for each module its docstring and members.

    Raises:
        ExtensionError: if a word of the line is neither a chapter, nor `every`, nor a folder: a misspelling.
    """
    keys = words.split()
    chosen = [module for key in keys for module in modules if module.key == key]
    if unknown := set(keys) - {"every", *FOLDERS, *map(str, range(20))}:
        raise ExtensionError(f"api-modules: no module can belong to {sorted(unknown)}")
    return "\n\n".join(module_section(module) for module in chosen)


def module_section(module: Module) -> str:
    """Return one module's Markdown. What it only passes on is linked: a thing is described in one place."""
    options = [":members:", ":show-inheritance:"]
    section = f"## `{module.name}`\n\n"
    if module.passed_on:
        options.append(f":exclude-members: {', '.join(name.rpartition('.')[2] for name in module.passed_on)}")
        section += "*Passed on from below: " + ", ".join(f"{{py:obj}}`~{name}`" for name in module.passed_on) + ".*\n\n"
    directive = "\n   ".join([f".. automodule:: {module.name}", *options])
    return f"{section}```{{eval-rst}}\n{directive}\n```"


def overview(modules: list[Module], pages: dict[int, str]) -> str:
    """Return a table of all modules in the order of their first chapters: name, chapter, what it is."""
    rows = ["| module | chapter | what it is |", "|---|---|---|"]
    for module in sorted(modules, key=lambda each: (not each.chapters, each.chapters[:1], each.name)):
        numbers = ", ".join(f"[{n}](/{pages[n]}.ipynb)" if n in pages else str(n) for n in module.chapters) or "every"
        summary = re.sub(r"`+", "`", module.summary).replace("|", "\\|")
        short = module.name.removeprefix("ddetr_lab.")
        rows.append(f"| {{py:mod}}`{short} <{module.name}>` | {numbers} | {summary} |")
    return "\n".join(rows)


def fill_placeholders(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the `api-...` lines of a page by what they stand for, before the page is parsed."""
    if PLACEHOLDER.search(source[0]):
        modules, pages = read_modules(), chapter_pages()
        source[0] = PLACEHOLDER.sub(
            lambda found: (
                overview(modules, pages) if found.group(1) == "overview" else modules_section(found.group(2), modules)
            ),
            source[0],
        )


def ready(lines: list[str], pages: dict[int, str]) -> list[str]:
    """Return a docstring's lines as Sphinx reads them: `code` in one pair of backticks, chapters as links."""
    text = "\n".join(lines)
    text = re.sub(r"(?<![`:\w])`([^`\n]+)`(?!`)", r"``\1``", text)
    # Napoleon would take the words before a colon for a type; the types stand in the signature.
    text = re.sub(r"^( *(?:Returns|Yields):\n +)(?=\S)", r"\1: ", text, flags=re.M)
    text = re.sub(r"``[^`]*``|\|", lambda found: "\\|" if found.group() == "|" else found.group(), text)

    def link(number: re.Match[str]) -> str:
        page = pages.get(int(number.group()))
        return f":doc:`{number.group()} </{page}>`" if page else number.group()

    def links(sentence: re.Match[str]) -> str:
        return re.sub(r"\d+", link, sentence.group())

    return re.sub(r"\b(?:Built|Used|learnt|used again) in chapters? [^.]*\.", links, text).split("\n")


def prepare_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Autodoc's event, before napoleon has turned Google's sections into fields."""
    lines[:] = ready(lines, chapter_pages())


def readable_defaults(signature: str) -> str:
    """Return a signature whose defaults are all Python: `<factory>` and `<function f>` say nothing to a reader, and
    Sphinx, which cannot parse them, would print every type of the signature at full length."""
    return re.sub(r"= <[^<>]*(?:<[^<>]*>[^<>]*)?>", "= ...", signature)


def prepare_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Autodoc's event, before a signature is parsed."""
    return signature and readable_defaults(signature), returns


def link_names(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn code in a chapter's prose that is the full name of something documented into a link to it."""
    objects = app.env.get_domain("py").objects  # type: ignore[attr-defined]
    for literal in list(doctree.findall(nodes.literal)):
        entry = objects.get(literal.astext().removesuffix("()"))
        if entry is None or not literal.astext().startswith("ddetr_lab.") or _inside_link(literal):
            continue
        if entry.docname == docname:
            continue
        address = f"{app.builder.get_relative_uri(docname, entry.docname)}#{entry.node_id}"
        literal.replace_self(nodes.reference("", "", literal.deepcopy(), internal=True, refuri=address))


def _inside_link(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.reference | nodes.title):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    for extension in ("sphinx.ext.autodoc", "sphinx.ext.napoleon"):
        app.setup_extension(extension)
    app.connect("source-read", fill_placeholders)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
    app.connect("autodoc-process-signature", prepare_signature)
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
