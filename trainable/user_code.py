"""Code of the user's: `package.module:function` -> the function, what may be set of it, and the hash of its source.

A module is read from the folder of the grid file or the working folder, else imported as an installed package. What was read
goes with the trials as text and is imported from that (`provide`): a file that is edited meanwhile changes no trial, and a
machine that lacks the file trains the same. The hash covers the file of the module and the __init__.py of its packages, and
nothing that they import. Nothing is read from a study folder: studies come from other people. Imports neither torch nor Ray.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from trainable.errors import first_line

_NAME = r"[A-Za-z_]\w*"
_REFERENCE = re.compile(rf"{_NAME}(\.{_NAME})*:{_NAME}", re.ASCII)
_SCALARS = (bool, int, float, str)


class UserCodeError(ValueError):
    """Code of the user's that cannot be used; the message is one line that says what is wrong and where."""


@dataclass(frozen=True)
class Source:
    """The text of one module, and the file that it was read from."""

    module: str
    file: str
    text: str
    is_package: bool = False


def is_reference(text: str) -> bool:
    """True for `package.module:function`."""
    return _REFERENCE.fullmatch(text) is not None


def read_sources(reference: str, folders: Iterable[Path]) -> tuple[Source, ...]:
    """The module and its packages from the first folder that has it; none where it must be an installed one.

    Errors: UserCodeError for a folder that is part of a study, a file that cannot be read, or a name that is taken.
    """
    parts = reference.partition(":")[0].split(".")
    for folder in folders:
        file = folder.joinpath(*parts).with_suffix(".py")
        if not file.is_file():
            continue
        if any((above / "study.json").exists() for above in (folder.absolute(), *folder.absolute().parents)):
            raise UserCodeError(f"{file}: lies in a study folder, and nothing is imported from one; copy it elsewhere")
        packages = [folder.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts))]
        _check_name_is_free(parts[0], file)
        return tuple(
            Source(".".join(parts[: depth + 1]), str(path.absolute()), _read(path), path != file)
            for depth, path in enumerate((*packages, file))
        )
    return ()


def provide(sources: Iterable[Source]) -> None:
    """Have `resolve` import these modules from their text, in this process, instead of what was there of their names."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    for source in sources:
        if _FINDER.sources.get(source.module) != source:
            _FINDER.sources[source.module] = source
            for name in [name for name in sys.modules if f"{name}.".startswith(f"{source.module}.")]:
                del sys.modules[name]


def provided() -> tuple[Source, ...]:
    """Everything that `provide` was given in this process: it travels with the trials."""
    return tuple(_FINDER.sources.values())


def resolve(reference: str) -> Callable[..., Any]:
    """The function. Errors: UserCodeError where there is none, or its module cannot be imported."""
    module, name = _import(reference), reference.partition(":")[2]
    _FINDER.files.add(str(getattr(module, "__file__", "")))
    function = getattr(module, name, None)
    if not callable(function):
        own = [known for known, value in vars(module).items() if callable(value) and known[0] != "_"]
        near = difflib.get_close_matches(name, own, n=1)
        raise UserCodeError(
            f"{reference}: {module.__name__} has no function {name}" + (f"; did you mean {near[0]}?" if near else "")
        )
    return typing.cast("Callable[..., Any]", function)


def source_hash(reference: str) -> str:
    """16 hex digits: the SHA-256 of the names and texts of what is hashed. Errors: UserCodeError."""
    module = _import(reference)
    sources = tuple(s for s in provided() if f"{module.__name__}.".startswith(f"{s.module}."))
    if not sources:
        try:
            sources = (Source(module.__name__, "", inspect.getsource(module)),)
        except (OSError, TypeError) as error:
            raise UserCodeError(f"{reference}: the source of {module.__name__} cannot be read") from error
    content = "\0".join(f"{source.module}\0{source.text}" for source in sources)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def check_fields(
    function: Callable[..., Any], called: str, table: str, fields: Mapping[str, Any], given: Sequence[str] = ()
) -> dict[str, Any]:
    """`fields` in the types of the function's parameters, the others at their defaults; in the order of its signature.

    `given` are the names of parameters that are no fields, `table` is where fields stand in a grid file. Errors: UserCodeError
    naming the field and the nearest one there is.
    """
    parameters = {
        name: one for name, one in inspect.signature(function).parameters.items() if one.kind is not one.VAR_POSITIONAL
    }
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    own = {name: one for name, one in parameters.items() if name not in given and one.kind is not one.VAR_KEYWORD}
    for name in fields:
        if name not in own and not takes_any:
            near = difflib.get_close_matches(name, own, n=1, cutoff=0.4)
            known = f"its fields are {', '.join(own)}" if own else "it has none"
            raise UserCodeError(
                f"{table}.{name}: {called} has no field {name!r}; {f'did you mean {near[0]}?' if near else known}"
            )
    types = _types_of(function)
    found = {}
    for name, one in own.items():
        if name in fields:
            found[name] = _typed(f"{table}.{name}", fields[name], types.get(name, type(one.default)), called)
        elif one.default is one.empty:
            raise UserCodeError(f"{called} needs {table}.{name}, which has no default")
        elif isinstance(one.default, _SCALARS):
            found[name] = _typed(f"{table}.{name}", one.default, types.get(name, type(one.default)), called)
    return found | {name: value for name, value in fields.items() if name not in own}


def find_line(error: BaseException) -> str | None:
    """`file:line (its text)`, the last line of the user's code that an error went through; None where it went through none."""
    files = {source.file for source in _FINDER.sources.values()} | _FINDER.files
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f"{frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else None


@contextmanager
def user_lines_told() -> Iterator[None]:
    """Errors that come out of the user's code say where in it: they are raised again as UserCodeError."""
    try:
        yield
    except UserCodeError:
        raise
    except Exception as error:
        where = find_line(error)
        if where is None:
            raise
        raise UserCodeError(f"{where}: {type(error).__name__}: {first_line(error)}") from error


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that were provided as text."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.files: set[str] = set()  # of every module with a function that was used, provided or installed

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        source = self.sources.get(fullname)
        if source is None:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(source), is_package=source.is_package)


class _Loader(importlib.abc.ExecutionLoader):
    """A module from its text, called by its file, so that a traceback shows the user's lines."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source.text

    def get_filename(self, fullname: str) -> str:
        return self._source.file

    def is_package(self, fullname: str) -> bool:
        return self._source.is_package


_FINDER = _Finder()


def _import(reference: str) -> ModuleType:
    name = reference.partition(":")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UserCodeError(
                f"{reference}: there is no module {name} beside the grid file, in the working folder or installed"
            ) from error
        raise UserCodeError(
            f"{find_line(error) or reference}: {first_line(error)}; only the file that is named travels with a study: "
            "install what it imports, or put it into that file"
        ) from error
    except Exception as error:
        where = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else find_line(error) or reference
        raise UserCodeError(f"{where}: {type(error).__name__}: {first_line(error)}") from error


def _check_name_is_free(name: str, file: Path) -> None:
    """Errors: UserCodeError where a module of this name is in use, which the user's would hide from everybody else."""
    there = sys.modules.get(name)
    if name in sys.stdlib_module_names or (there is not None and name not in _FINDER.sources and _hides(there, file)):
        raise UserCodeError(f"{file}: another module is called {name}; give the file or folder another name")


def _hides(module: ModuleType, file: Path) -> bool:
    """Whether a module that is in use is another one than the user's, which an earlier import may have found too."""
    paths = [str(getattr(module, "__file__", None) or ""), *getattr(module, "__path__", [])]
    return not any(path and Path(path).absolute() in (file.absolute(), *file.absolute().parents) for path in paths)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.name != "__init__.py" or path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserCodeError(f"{path}: cannot be read ({first_line(error)})") from error


def _types_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError):
        return {}


def _typed(name: str, value: Any, kind: Any, called: str) -> Any:
    """`value` in the type of its parameter, as it is where that is none of the simple ones."""
    if not isinstance(value, _SCALARS):
        raise UserCodeError(f"{name}={value!r} is not a number, a text, true or false")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and is_number:
        return float(value)
    if kind is int and is_number and float(value).is_integer():
        return int(value)
    if kind in _SCALARS and type(value) is not kind:
        word = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
        raise UserCodeError(f"{name}={value!r} is not {word}, which {called} takes")
    return value
