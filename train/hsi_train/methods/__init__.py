"""One published method per file or folder, which has the name of the method.

To check a network against its paper, one looks in one place. A method defines two
names:

- ``Options``: a frozen msgspec struct, the ``[options]`` table of a recipe;
- ``Method``: a subclass of `hsi_train.method.BaseMethod`.

Nothing else has to be edited: the command line, the contract tests and the exporter
find methods by listing this folder. Listing imports neither methods nor torch.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import msgspec

from hsi_runtime.errors import RecipeError

if TYPE_CHECKING:
    from hsi_train.method import BaseMethod, Problem


def names() -> list[str]:
    """List the methods, which are the files of this folder, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def method_class(name: str) -> "type[BaseMethod]":
    """Return the class of a method, such as for its receptive field.

    Raises:
        RecipeError: There is no such method.
    """
    method: type[BaseMethod] = _module(name).Method
    return method


def check_options(name: str, options: dict[str, Any]) -> msgspec.Struct:
    """Parse the options of a method.

    Raises:
        RecipeError: The method or one of its options does not exist.
    """
    module = _module(name)
    try:
        parsed: msgspec.Struct = msgspec.convert(options, module.Options)
    except msgspec.ValidationError as error:
        raise RecipeError(f"[options] of {name}: {error}") from error
    return parsed


def all_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with every default filled in."""
    filled: dict[str, Any] = msgspec.to_builtins(check_options(name, options))
    return filled


def build(name: str, problem: "Problem", options: dict[str, Any]) -> "BaseMethod":
    """Build an untrained method.

    Raises:
        RecipeError: The method or one of its options does not exist.
    """
    parsed = check_options(name, options)
    method: BaseMethod = _module(name).Method(problem, parsed)
    return method


def _module(name: str) -> Any:
    if name not in names():
        raise RecipeError(
            f"There is no method {name!r}; there are {', '.join(names())}."
        )
    return importlib.import_module(f"hsi_train.methods.{name}")
