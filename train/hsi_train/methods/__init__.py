"""One file per published method; the file's name is the method's."""

import pkgutil


def names() -> list[str]:
    """List the methods without importing them: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
