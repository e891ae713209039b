"""Plain descriptions of hyperparameters, in the class_path / init_args form that jsonargparse writes and reads.

A checkpoint that holds nothing but numbers, strings, lists and dicts loads under torch's default `weights_only`: no
code of the file's maker runs.
"""

import functools
import inspect
from pathlib import PurePath
from typing import Any

from torch import nn

from zeroth.estimators import Estimator
from zeroth.meta import MetaGradient


def describe(value: Any) -> Any:
    """`value` as numbers, strings, lists and dicts from which jsonargparse can rebuild it.

    - a network, estimator or meta-gradient becomes {"class_path", "init_args"}; the constructor arguments are its own
      `rebuild_args` (dict) where it has such, else read from the attributes of the same names, which those of this
      project keep;
    - a class, or `functools.partial(cls, lr=...)`, becomes {"class_path", "init_args"};
    - paths become text, tuples lists; numbers, strings, None, lists and dicts stay.

    Raises:
        TypeError: the value has no such description (a lambda, a network that does not keep its arguments).
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple):
        return [describe(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): describe(entry) for key, entry in value.items()}
    if isinstance(value, functools.partial) and isinstance(value.func, type) and not value.args:
        return {"class_path": _path(value.func), "init_args": describe(value.keywords)}
    if isinstance(value, type):
        return {"class_path": _path(value), "init_args": {}}
    if isinstance(value, nn.Module | Estimator | MetaGradient):
        return {"class_path": _path(type(value)), "init_args": _arguments(value)}
    raise TypeError(f"{value!r} cannot be written as plain hyperparameters")


def _arguments(module: Any) -> dict[str, Any]:
    if isinstance(own := getattr(module, "rebuild_args", None), dict):
        return describe(own)
    arguments = {}
    for name, parameter in inspect.signature(type(module)).parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if variadic or not hasattr(module, name):
            raise TypeError(f"{type(module).__name__} does not keep its constructor argument {name!r} as an attribute")
        arguments[name] = describe(getattr(module, name))
    return arguments


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
