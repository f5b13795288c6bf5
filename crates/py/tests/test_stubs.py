"""The stubs say what the module has, and nothing else."""

import ast
import inspect
import sys
from pathlib import Path

import pytest

import sherry
from sherry import _options, _sherry

FOLDER = Path(sherry.__file__).parent
STUBS = ast.parse((FOLDER / "_sherry.pyi").read_text(encoding="utf-8"))
#: What every object has, or what has no signature.
INHERITED = set(dir(object)) | {"__module__", "__weakref__", "__dict__", "__rmatmul__"}


def signature(function):
    """Names, kinds and whether there is a default, of a stub."""
    arguments = function.args
    names = [(argument.arg, "positional") for argument in arguments.posonlyargs + arguments.args]
    without = len(names) - len(arguments.defaults)
    found = [(*name, index >= without) for index, name in enumerate(names)]
    if arguments.vararg:
        found.append((arguments.vararg.arg, "args", False))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        found.append((argument.arg, "keyword", default is not None))
    if arguments.kwarg:
        found.append((arguments.kwarg.arg, "kwargs", False))
    return found


def runtime_signature(function):
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
        inspect.Parameter.VAR_POSITIONAL: "args",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "kwargs",
    }
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, kinds[p.kind], p.default is not inspect.Parameter.empty) for p in parameters]


def defaults(function):
    """Defaults of a stub, where they are written out."""
    arguments = function.args
    pairs = list(zip(arguments.args[len(arguments.args) - len(arguments.defaults) :], arguments.defaults))
    pairs += [pair for pair in zip(arguments.kwonlyargs, arguments.kw_defaults) if pair[1] is not None]
    return {argument.arg: ast.literal_eval(value) for argument, value in pairs}


def decorators(function):
    return {decorator.id for decorator in function.decorator_list}


def check_function(stubs, runtime, drop_first=False):
    """`stubs`: the function, or all its overloads."""
    found = runtime_signature(runtime)
    if drop_first:
        found = [parameter for parameter in found if parameter[0] not in {"self", "cls"}]
    for stub in stubs:
        expected = signature(stub)
        if drop_first and "staticmethod" not in decorators(stub):
            expected = expected[1:]
        overloads = len(stubs) > 1
        assert [p[:2] for p in expected] == [p[:2] for p in found], stub.name
        if not overloads:
            assert expected == found, stub.name
        parameters = inspect.signature(runtime).parameters
        for name, value in defaults(stub).items():
            assert parameters[name].default == value, (stub.name, name)


def functions(body):
    grouped = {}
    for item in body:
        if isinstance(item, ast.FunctionDef):
            grouped.setdefault(item.name, []).append(item)
    return grouped


def test_functions_are_those_of_the_module():
    stubs = functions(STUBS.body)
    for name, overloads in stubs.items():
        check_function(overloads, getattr(_sherry, name))
    runtime = {name for name, value in vars(_sherry).items() if inspect.isroutine(value) and not name.startswith("__")}
    assert set(stubs) == runtime


CLASSES = {item.name: item for item in STUBS.body if isinstance(item, ast.ClassDef)}


def test_classes_are_those_of_the_module():
    assert set(CLASSES) == {name for name, value in vars(_sherry).items() if isinstance(value, type)}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_methods_are_those_of_the_class(name):
    runtime = getattr(_sherry, name)
    if issubclass(runtime, Exception):
        return
    stubs = functions(CLASSES[name].body)
    properties = {n for n, overloads in stubs.items() if "property" in decorators(overloads[0])}
    assert properties == {n for n, value in vars(runtime).items() if inspect.isgetsetdescriptor(value)} - {"__dict__"}
    methods = set(stubs) - properties
    ours = {n for n in vars(runtime) if n not in INHERITED and n not in properties and n != "__doc__"}
    assert methods - {"__new__", "__reduce__"} == ours - {"__new__", "__reduce__"}
    for method in methods:
        if method == "__new__":
            # Older versions of CPython do not look at the signatures of classes that are not written in Python.
            if sys.version_info >= (3, 10):
                check_function(stubs[method], runtime, drop_first=True)
        elif not method.startswith("__"):
            check_function(stubs[method], getattr(runtime, method), drop_first=True)


def test_every_public_thing_is_documented():
    for name in sherry.__all__:
        value = getattr(sherry, name)
        assert name == "__version__" or inspect.getdoc(value), name
        for member, method in vars(value).items() if isinstance(value, type) else []:
            if not member.startswith("_") and (callable(method) or inspect.isgetsetdescriptor(method)):
                assert inspect.getdoc(method), (name, member)


def test_options_are_those_of_the_type():
    assert list(_options.GenerateOptions.__annotations__) == _sherry.OPTIONS


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the constructor's signature cannot be had")
def test_from_pretrained_has_the_options_of_the_constructor():
    def options(function):
        return {(name, p.default) for name, p in inspect.signature(function).parameters.items() if name != "path"}

    assert options(sherry.Model.from_pretrained) == options(_sherry.Model)


def test_the_package_is_marked_as_typed():
    assert (FOLDER / "py.typed").exists()
    exported = {name for name in vars(_sherry) if not name.startswith("_") and name != "OPTIONS"}
    assert exported - {"Model"} <= set(sherry.__all__)
