"""For every test: the shape and type annotations of smelt are enforced while it runs."""

import signal
from pathlib import Path

from jaxtyping import install_import_hook

import smelt
import tests.typecheck

# Compiled kernels: a checker's wrapper around them is nothing that numba could compile.
KERNELS = {
    "smelt.merge.compiled",
    "smelt.merge.drawing",
    "smelt.merge.kinship.diagnose_kernels",
}
_root = Path(smelt.__file__).parents[1]
_modules = {
    ".".join(path.relative_to(_root).with_suffix("").parts)
    for path in _root.glob("smelt/**/*.py")
    if path.name != "__init__.py"
}
# The hook names its checker as text and looks it up in a module that must be there already.
install_import_hook(sorted(_modules - KERNELS), f"{tests.typecheck.__name__}.enforce")

# A run started in the background ignores Ctrl-C, and its children would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
