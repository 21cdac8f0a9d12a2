"""Finds, checks and loads methods: built-in ones, those of installed packages (entry points) and those of `--plugin
FILE`. Such a file may also define networks, or only networks.

`kdbench.plugins.source` reads the facts of a method (name, family, paper, hyperparameters) from its source without
running it, as running it would import torch, which takes seconds. They must therefore be literals in the class body and
in the signature of the class's own `__init__`; `load` imports the class and refuses one whose facts differ from these.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.architectures import own
from kdbench.disk import file_sha256
from kdbench.errors import UserError, unknown
from kdbench.plugins.source import BUILDS, MethodInfo, NetworkInfo, family_order, read_networks, read_source

if TYPE_CHECKING:
    from kdbench.method import Method

ENTRY_POINTS = "kdbench.methods"  # the group under which installed packages name their method classes


class Registry(dict[str, MethodInfo]):
    """The methods that this process knows, by name, sorted by family, then by name.

    `registry[name]` raises a UserError that suggests the nearest name if there is no such method.
    """

    def __init__(self, plugins: Iterable[Path] = ()):
        """Read the built-in methods, those of installed packages and those of the files `plugins`.

        UserError for a source that cannot be read as a method, and for two methods, or two networks, of the same name.
        """
        super().__init__()
        plugins = list(plugins)
        self.networks: dict[str, NetworkInfo] = {}  # by MODULE:FUNCTION
        for network in (network for file in plugins for network in _networks(file)):
            if network.name in self.networks:
                raise UserError(f"two networks are named {network.name!r}: {self.networks[network.name].file} and "
                                f"{network.file}")
            self.networks[network.name] = network
        found = [*_builtin(), *_installed(), *(info for file in plugins for info in _plugin(file))]
        found.sort(key=lambda info: (family_order(info.family), info.name != "ce", info.name))
        for info in found:
            if info.name in self:
                raise UserError(f"two methods are named {info.name!r}: {self[info.name].file} and {info.file}; give "
                                "yours another name")
            self[info.name] = replace(info, networks=tuple(self.networks.values())) if self.networks else info

    def __missing__(self, name: str) -> MethodInfo:
        raise UserError(f"{unknown('method', name, self)}; a method of yours needs --plugin FILE")


def load(info: MethodInfo) -> "type[Method]":
    """Import the method's class, and the networks that its runs may build, and return the class. UserError if an import
    fails, or if the class differs from `info`."""
    for network in info.networks:
        _give(network)
    try:
        module = importlib.import_module(info.module) if info.module else _import_file(info.file)
        cls = getattr(module, info.class_name)
    except Exception as error:
        raise UserError(f"{info.file}: the plugin fails to import: {type(error).__name__}: {error}") from error
    _verify(info, cls)
    return cls


def _give(network: NetworkInfo) -> None:
    """Import a network's file and allow this process to build the network. UserError if the import fails, or if the
    file has changed since it was read."""
    try:
        if file_sha256(network.file) != network.digest:
            raise ValueError("the file changed since the command began")
        function = getattr(_import_file(network.file), network.name.partition(":")[2])
    except Exception as error:
        raise UserError(f"{network.file}: the plugin fails to import: {type(error).__name__}: {error}") from error
    own.give(network.name, str(network.file), network.digest, function)


def _verify(info: MethodInfo, cls: "type[Method]") -> None:
    """Compare the imported class with the facts that were read from its source. UserError where they differ."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    written = {name: parameter.default for name, parameter in info.hyperparameters.items()}
    if defaults != written:
        raise UserError(
            f"{info.file}: {info.class_name}.__init__ really takes {defaults or 'no hyperparameters'}, its source says "
            f"{written or 'none'}: write every hyperparameter with a literal default in the class's own __init__"
        )
    for fact in ("name", "family", "learns_from", "needs_data", "needs_groups", "conditions", "unlabelled"):
        if getattr(cls, fact) != getattr(info, fact):
            raise UserError(f"{info.file}: {info.class_name}.{fact} must be a literal in the class body")


def _import_file(file: Path) -> types.ModuleType:
    """The module of a `--plugin` file, imported once per process under a name derived from the path."""
    name = f"kdbench_plugin_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution, as dataclasses and pickling need it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# The places where methods are found.

def _builtin() -> Iterable[MethodInfo]:
    """The methods of the package `kdbench_methods`: every FAMILY/NAME.py, except names with a leading underscore."""
    spec = importlib.util.find_spec("kdbench_methods")
    if spec is None or not spec.submodule_search_locations:
        return
    root = Path(next(iter(spec.submodule_search_locations)))
    for file in sorted(root.glob("*/*.py")):
        if not file.name.startswith("_"):
            yield from read_source(file, f"kdbench_methods.{file.parent.name}.{file.stem}")


def _installed() -> Iterable[MethodInfo]:
    """The methods that installed packages declare as entry points. UserError if one cannot be found or imported."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        where = f"entry point {entry.name!r} ({entry.value})"
        try:
            spec = importlib.util.find_spec(entry.module)
        except Exception as error:
            raise UserError(f"{where}: the plugin fails to import: {type(error).__name__}: {error}") from error
        if spec is None or spec.origin is None:
            raise UserError(f"{where}: no module {entry.module!r}; reinstall or uninstall the package")
        methods = {info.class_name: info for info in read_source(Path(spec.origin), entry.module)}
        if entry.attr not in methods:
            raise UserError(f"{where}: {spec.origin} defines no method class {entry.attr!r}, it has: "
                            f"{', '.join(methods) or 'none'}")
        yield methods[entry.attr]


def _plugin(file: Path) -> Iterable[MethodInfo]:
    """The methods of a `--plugin` file. UserError if there is no such file, or if it defines neither a method nor a
    network."""
    if not file.is_file():
        raise UserError(f"--plugin {file}: no such file")
    methods = list(read_source(file, None))
    if not methods and not read_networks(file):
        raise UserError(f"--plugin {file}: no class in it has a literal `name` and `family`, as a method must, and "
                        f"none of its functions takes {' and '.join(BUILDS)} first, as what builds a network must")
    yield from methods


def _networks(file: Path) -> Iterable[NetworkInfo]:
    """The networks of a `--plugin` file; none if there is no such file. UserError if it defines networks but its name
    cannot be the MODULE in their names MODULE:FUNCTION."""
    found = read_networks(file) if file.is_file() else []
    if found and not file.stem.isidentifier():
        raise UserError(f"--plugin {file}: it holds the network {found[0].name.partition(':')[2]}, and networks are "
                        "named MODULE:FUNCTION: name the file by letters, digits and '_'")
    return found
