"""Writes reference text from the docstrings of the sources, without importing them."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

from tables import table

ROOT = Path(__file__).parents[1]
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")
Node = ast.Module | ast.ClassDef | ast.FunctionDef


class Docstring(NamedTuple):
    """A docstring in Google's style: its text, and its sections by name."""

    text: str
    sections: dict[str, str]

    def items(self, section: str) -> dict[str, str]:
        """Return the entries ``name: meaning`` of a section."""
        body = self.sections.get(section, "")
        entries = re.findall(r"^\*{0,2}(\w+): (.*(?:\n[ \t]+.*)*)", body, re.MULTILINE)
        return {name: " ".join(text.split()) for name, text in entries}


def docstring(node: Node) -> Docstring:
    """Split the docstring of a module, class or function."""
    text = ast.get_docstring(node) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    sections = {
        name: "\n".join(line.removeprefix("    ") for line in body.splitlines())
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    return Docstring(parts[0].strip(), sections)


def tree(path: str) -> ast.Module:
    """Parse a file of the repository."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def find(module: ast.Module, dotted: str) -> ast.ClassDef | ast.FunctionDef:
    """Find a class, function or method by its dotted name.

    Raises:
        LookupError: There is none.
    """
    body: list[ast.stmt] = module.body
    for name in dotted.split("."):
        named = [
            node
            for node in body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
        ]
        if not named:
            raise LookupError(f"there is no {dotted}")
        body = named[0].body
    return named[0]


def methods(folder: Path) -> dict[str, list[Path]]:
    """Return the files of every method by its name: one, or those of its folder.

    The first one describes the method.
    """
    files = {p.stem: [p] for p in folder.glob("[!_]*.py")}
    for first in folder.glob("*/__init__.py"):
        files[first.parent.name] = [first, *sorted(first.parent.glob("[!_]*.py"))]
    return dict(sorted(files.items()))


def defining(paths: list[Path], name: str) -> Path:
    """Return the file that defines a class.

    Raises:
        LookupError: None of them does.
    """
    for path in paths:
        names = [getattr(node, "name", None) for node in tree(str(path)).body]
        if name in names:
            return path
    raise LookupError(f"there is no {name} in {paths[0]}")


def about(path: str) -> str:
    """Return the docstring of a file."""
    return docstring(tree(path)).text


def fields(path: str, name: str) -> str:
    """Write the fields of a struct as a table: name, type, meaning.

    Raises:
        LookupError: A field is not described.
    """
    module = tree(path)
    node = find(module, name)
    described = docstring(node)
    meaning, rows = described.items("Attributes"), []
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            key = ast.unparse(field.target)
            if key not in meaning:
                raise LookupError(f"{path}: {name}.{key} is not described")
            default = field.value and f" Default: `{_default(field.value)}`."
            kind = _type(module, field.annotation)
            rows.append((f"`{key}`", f"`{kind}`", meaning[key] + (default or "")))
    return f"{described.text}\n\n{table(('field', 'type', 'meaning'), rows)}"


def call(path: str, name: str) -> str:
    """Write how a function, a method or a class is called: signature and errors."""
    node = find(tree(path), name)
    described = docstring(node)
    made = find(tree(path), f"{name}.__init__") if _is_class(node) else node
    assert isinstance(made, ast.FunctionDef)
    arguments = "".join(f"    {a},\n" for a in _arguments(made.args) if a != "self")
    result = f" -> {ast.unparse(made.returns)}" if node is made and made.returns else ""
    lines = [f"```text\n{name}(\n{arguments}){result}\n```", described.text]
    for section, title in (("Args", "argument"), ("Raises", "raises")):
        rows = [(f"`{key}`", text) for key, text in described.items(section).items()]
        if rows:
            lines.append(table((title, ""), rows))
    if "Returns" in described.sections:
        lines.append("Returns: " + " ".join(described.sections["Returns"].split()))
    return "\n\n".join(lines)


def _is_class(node: Node) -> bool:
    return isinstance(node, ast.ClassDef)


def _arguments(arguments: ast.arguments) -> list[str]:
    """Return each argument with its type and default."""
    every = [*arguments.posonlyargs, *arguments.args]
    without = len(every) - len(arguments.defaults)
    defaults = [None] * without + list(arguments.defaults)
    out = [_argument(a, d) for a, d in zip(every, defaults, strict=True)]
    if arguments.vararg is not None:
        out.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        out.append("*")
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    out += [_argument(a, d) for a, d in pairs]
    if arguments.kwarg is not None:
        out.append(f"**{ast.unparse(arguments.kwarg)}")
    return out


def _default(value: ast.expr) -> str:
    """Write the default of a field: of a list that each object gets anew, the list."""
    text = ast.unparse(value)
    return "[]" if text.endswith("field(default_factory=list)") else text


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (
        "" if default is None else f" = {ast.unparse(default)}"
    )


def _type(module: ast.Module, annotation: ast.expr) -> str:
    """Write a type: aliases by what they stand for, limits left out."""
    aliases = {
        node.targets[0].id: node.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }

    class Plain(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            alias = aliases.get(node.id)
            return node if alias is None else self.visit(alias)

        def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
            if isinstance(node.value, ast.Name) and node.value.id == "Annotated":
                assert isinstance(node.slice, ast.Tuple)
                return self.visit(node.slice.elts[0])  # type: ignore[no-any-return]
            return self.generic_visit(node)

    text = ast.unparse(Plain().visit(annotation))
    text = re.sub(r"Literal\[(.*?)\]", lambda m: m[1].replace(", ", " | "), text)
    return text
