# SPDX-License-Identifier: Apache-2.0
"""Text that every Python installation carries: documentation and code of the standard library's functions."""

import ast
import sysconfig
from pathlib import Path

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}


def _sources():
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py"), key=lambda found: str(found.relative_to(root))):
        if LEFT_OUT.intersection(path.relative_to(root).parts):
            continue
        try:
            yield path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue


def _pairs_of(text: str):
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        documentation = ast.get_docstring(node)
        if documentation and len(documentation) > 20 and len(node.body) > 1:
            body = lines[node.body[1].lineno - 1:node.end_lineno]
            yield documentation, "\n".join([lines[node.lineno - 1].strip(), *body])


def pairs() -> list[tuple[str, str]]:
    """(documentation, source without it) of every documented function, in a fixed order."""
    result = []
    for text in _sources():
        try:
            result.extend(_pairs_of(text))
        except SyntaxError:
            continue
    return result
