"""The lines between the rooms: who may import whom, what is pure, what is never there, and what everything public says.

Each rule is a function from a parsed module to the places where it is broken, so that it can be shown a bad module too.
"""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("mamba_jax", "threats", "experiments", "benchmarks")
FOREIGN = {"torch", "torchvision", "tensorflow"}
FORBIDDEN = {
    "threats": {"mamba_jax", "experiments", "benchmarks", "absl"},
    "mamba_jax": {"threats", "experiments", "benchmarks", "absl"},
    "experiments": {"benchmarks"},
    "benchmarks": set(),
}
PURE = ("threats", "mamba_jax")
TOUCHES_FILES = (
    "mamba_jax/data/",
    "mamba_jax/torch_import",
    "mamba_jax/training/checkpoint.py",
    "mamba_jax/zoo/",
)
OPENERS = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "unlink",
    "mkdir",
    "savez",
    "save_file",
    "load_file",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DECLARED = {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in PROJECT["dependencies"]}
DISTRIBUTION_OF = {"PIL": "pillow", "absl": "absl-py", "orbax": "orbax-checkpoint", "sklearn": "scikit-learn"}
# Declares PyTorch, so that it is installed by hand without its dependencies.
UNDECLARED = {"medmnist"}
# Compared with where it is installed, and nowhere needed.
OPTIONAL = {"benchmarks/attacks.py": {"foolbox"}}
ORBAX = "mamba_jax/training/checkpoint.py"
LONGEST = 300

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in MODULES}


def _imports(tree):
    """Dotted names of everything imported, `from a import b` as a.b, dynamic imports of a literal name included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def _called(node):
    """The last name of what is called: `open` of both open(...) and path.open(...)."""
    return getattr(node.func, "id", None) or getattr(node.func, "attr", "")


def _wrong_imports(name, tree):
    package = name.split("/")[0]
    return [imported for imported in _imports(tree) if imported.split(".")[0] in FORBIDDEN[package]]


def _foreign_imports(name, tree):
    return [imported for imported in _imports(tree) if not _is_ours(imported)]


def _planted_modules(name, tree):
    """Writes to `sys.modules` under a foreign name, or under one that cannot be read off the code."""
    keys = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load) and _is_modules(node.value):
            keys.append(node.slice)
        elif isinstance(node, ast.Call) and any(map(_is_modules, node.args)):
            keys.append(node)
        elif isinstance(node, ast.Call) and _is_modules(getattr(node.func, "value", None)):
            keys += [] if _called(node) in ("get", "keys", "items", "copy", "pop") else node.args or [node]
    return [ast.unparse(key) for key in keys if not (isinstance(key, ast.Constant) and _is_ours(key.value))]


def _is_ours(imported):
    return not FOREIGN & set(str(imported).split("."))


def _is_modules(node):
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.modules"


def _prints(name, tree):
    if name.split("/")[0] not in PURE:
        return []
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) == "print"]


def _opened_files(name, tree):
    if name.split("/")[0] not in PURE or name.startswith(TOUCHES_FILES):
        return []
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) in OPENERS]


def _orbax_imports(name, tree):
    return [] if name == ORBAX else [imported for imported in _imports(tree) if imported.split(".")[0] == "orbax"]


def _undeclared_imports(name, tree):
    """Third-party imports that installing the project need not bring."""
    roots = {imported.split(".")[0] for imported in _imports(tree)} - sys.stdlib_module_names - set(PACKAGES)
    roots -= UNDECLARED | OPTIONAL.get(name, set())
    brought_by = {root: DISTRIBUTION_OF.get(root, root).lower().replace("_", "-") for root in roots}
    return sorted(root for root, distribution in brought_by.items() if distribution not in DECLARED)


def _missing_docstring(name, tree):
    public = not name.split("/")[-1].startswith("_") or name.endswith("__init__.py")
    return ["no module docstring"] if public and len(ast.get_docstring(tree) or "") < 20 else []


def _bare_asserts(name, tree):
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Assert)]


RULES = {
    _wrong_imports: ("threats/a.py", "def f():\n    from mamba_jax import models"),
    _foreign_imports: ("experiments/a.py", "import importlib\nimportlib.import_module('torch.nn')"),
    _planted_modules: ("mamba_jax/data/a.py", "import sys\nsys.modules.setdefault('torch', object())"),
    _prints: ("mamba_jax/a.py", "import jax\njax.debug.print('x')"),
    _opened_files: ("threats/a.py", "import pathlib\npathlib.Path('x').read_text()"),
    _orbax_imports: ("experiments/a.py", "from orbax import checkpoint"),
    _undeclared_imports: ("threats/a.py", "def f():\n    import foolbox.attacks"),
    _missing_docstring: ("threats/a.py", '"""Short."""'),
    _bare_asserts: ("threats/a.py", "assert True"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.strip("_"))
def test_every_module_keeps_the_rule(rule):
    broken = {name: found for name, tree in TREES.items() if (found := rule(name, tree))}
    assert broken == {}


@pytest.mark.parametrize(("rule", "example"), RULES.items(), ids=lambda item: getattr(item, "__name__", "").strip("_"))
def test_the_rule_sees_a_breach(rule, example):
    name, source = example
    assert rule(name, ast.parse(source))


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (_wrong_imports, "mamba_jax/a.py", "from absl import flags"),
        (_wrong_imports, "mamba_jax/a.py", "import threats.outcomes as outcomes"),
        (_wrong_imports, "experiments/a.py", "from benchmarks import timing"),
        (_foreign_imports, "mamba_jax/a.py", "from safetensors import torch"),
        (_planted_modules, "threats/a.py", "import sys\nsys.modules['tensorflow'] = None"),
        (_planted_modules, "threats/a.py", "import sys\nfor name in names:\n    sys.modules[name] = None"),
        (_planted_modules, "threats/a.py", "import sys\nmock.patch.dict(sys.modules, {'torch': None})"),
        (_opened_files, "mamba_jax/training/train.py", "open('log')"),
    ],
)
def test_the_rule_sees_other_forms(rule, name, source):
    assert rule(name, ast.parse(source))


def test_all_packages_were_read():
    assert {name.split("/")[0] for name in TREES} == set(PACKAGES)
    assert len(TREES) > 10


def test_no_file_outgrows_one_idea():
    files = [*MODULES, *(ROOT / "tests").rglob("*.py")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


@pytest.fixture(scope="module")
def imported():
    """Every module of ours, imported: dotted name -> module."""
    names = (name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in TREES)
    return {name: importlib.import_module(name) for name in names if not name.endswith("__main__")}


def test_pytorch_is_not_there(imported):
    assert importlib.util.find_spec("torch") is None
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torch")
    assert "torch" not in sys.modules


def test_handed_out_names_exist(imported):
    missing = {
        name: absent
        for name, module in imported.items()
        if (absent := [public for public in getattr(module, "__all__", ()) if not hasattr(module, public)])
    }
    assert missing == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_handed_out_names_are_documented(imported, package):
    modules = (module for name, module in imported.items() if name.split(".")[0] == package)
    public = {name: getattr(module, name) for module in modules for name in getattr(module, "__all__", ())}
    described = {name: value for name, value in public.items() if inspect.isclass(value) or inspect.isfunction(value)}
    # A NamedTuple or dataclass without a docstring is given its signature for one.
    undocumented = [
        name
        for name, value in described.items()
        if not (value.__doc__ or "").strip() or (value.__doc__ or "").startswith(f"{name}(")
    ]
    assert undocumented == []
