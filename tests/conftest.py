"""For every test: the shape and type annotations of smelt are enforced while it runs."""

import signal

from jaxtyping import install_import_hook

import tests.typecheck

# The hook names its checker as text and looks it up in a module that must be there already.
install_import_hook("smelt", f"{tests.typecheck.__name__}.enforce")

# A run started in the background ignores Ctrl-C, and its children would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
