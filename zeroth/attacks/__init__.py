"""Attacks, one a file. Every :class:`Attack` below this package is exported by its class name; no list to edit."""

import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any

from zeroth.attacks.attack import Attack
from zeroth.attacks.result import AttackResult

__all__ = ["Attack", "AttackResult"]

for _info in pkgutil.walk_packages(__path__, f"{__name__}."):
    _module = importlib.import_module(_info.name)
    for _name, _item in vars(_module).items():
        if (
            inspect.isclass(_item)
            and issubclass(_item, Attack)
            and not inspect.isabstract(_item)
            and _item.__module__ == _info.name
        ):
            globals()[_name] = _item
            __all__ += [_name]

if TYPE_CHECKING:
    # The exports above are made at import: a type checker takes any name.
    def __getattr__(name: str) -> Any: ...
