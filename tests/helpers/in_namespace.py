"""``python -m in_namespace NAMESPACE MODULE ARGUMENTS``: a module as it is run in a network namespace."""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    from namespaces import enter

    _, namespace, module, *rest = sys.argv
    enter(namespace)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
