"""The settings that mmdetection keeps as Python text inside its checkpoints, read as data: nothing in them is run."""

import ast
from typing import Any


class _NotData(Exception):
    """Something in the text is more than literals."""


def read_python_config(text: str) -> dict[str, Any]:
    """Return the top-level assignments of a configuration that are literals or `dict(...)` of literals; others are left out."""
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values: dict[str, Any] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
            try:
                values[statement.targets[0].id] = _value(statement.value)
            except (_NotData, RecursionError):
                continue
    return values


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        if any(keyword.arg is None for keyword in node.keywords):
            raise _NotData
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        if any(key is None for key in node.keys):
            raise _NotData
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.List | ast.Tuple):
        items = [_value(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise _NotData from error


def find(settings: Any, *path: str | int) -> Any:
    """Return what stands at a path of keys and indices, or None where a part of it is missing."""
    for key in path:
        if isinstance(settings, dict):
            settings = settings.get(key)
        elif isinstance(settings, list | tuple) and isinstance(key, int) and key < len(settings):
            settings = settings[key]
        else:
            return None
    return settings
