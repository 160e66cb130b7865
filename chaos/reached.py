"""Which awaits of a source file a campaign has not come to: those in functions that it did run."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path


def not_reached(seen: Iterable[str]) -> list[str]:
    """Of `calls/dispatch.py:158` and the like: the awaits beside them at which nothing was ever suspended."""
    lines: defaultdict[str, set[int]] = defaultdict(set)
    for place in seen:
        name, _, line = place.partition(":")
        if line.isdecimal():
            lines[name].add(int(line))
    return sorted(
        f"{name}:{missed}"
        for name, reached in lines.items()
        if (path := _find(name))
        for missed in _missed(path, reached)
    )


def _find(name: str) -> Path | None:
    spec = find_spec("boostedcalls." + name.removesuffix(".py").replace("/", "."))
    return Path(spec.origin) if spec and spec.origin else None


def _missed(path: Path, reached: set[int]) -> Iterator[int]:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.AsyncFunctionDef):
            awaits = [node for node in ast.walk(function) if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor)]
            spans = [(node.lineno, _end(node)) for node in awaits]
            hit = [any(first <= line <= last for line in reached) for first, last in spans]
            if any(hit):
                yield from (first for (first, _), was in zip(spans, hit, strict=True) if not was)


def _end(node: ast.AST) -> int:
    if isinstance(node, ast.AsyncWith):
        return max(item.context_expr.end_lineno or node.lineno for item in node.items)
    if isinstance(node, ast.AsyncFor):
        return node.iter.end_lineno or node.lineno
    return getattr(node, "end_lineno", None) or getattr(node, "lineno", 0)
