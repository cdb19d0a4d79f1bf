# SPDX-License-Identifier: Apache-2.0
"""Stands in for SGLang's kernels, of which no CPU build is published: SGLang computes with torch where there are none.

It imports some by name at its start.  One that is called says so.
"""

__path__ = []


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_, **__):
        raise NotImplementedError(f"sgl_kernel.{name}: no kernels here")

    return missing
