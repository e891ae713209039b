"""What is put in front of a model: each defence makes with it one callable that is a model again.

Each file of this folder is imported here and its public classes are offered under their own names, so a new defence is
one new file: configs find it by its class name, Python by `from zeroth.defenses import Name`.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

__all__: list[str] = []

if TYPE_CHECKING:  # names that come about below are out of a type checker's sight

    def __getattr__(name: str) -> Any: ...


for _info in pkgutil.iter_modules(__path__):
    if _info.name.startswith("_"):  # a part of defences, none itself
        continue
    _module = importlib.import_module(f"{__name__}.{_info.name}")
    for _name, _value in vars(_module).items():
        if isinstance(_value, type) and _value.__module__ == _module.__name__ and not _name.startswith("_"):
            globals()[_name] = _value
            __all__ += [_name]
