"""One file per published method, however long; the file's name is the method's.

Who checks a network against its paper reads one file.
"""

import pkgutil


def names() -> list[str]:
    """List the methods without importing them: the files of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
