"""The book's own Sphinx extensions, imported from where Sphinx finds them."""

import importlib.util
import sys
from types import ModuleType

from tests.conftest import ROOT


def extension(name: str) -> ModuleType:
    """Return the module book/_ext/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"book/_ext/{name}.py cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
