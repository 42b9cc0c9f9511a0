"""The house rules that a machine can check: direction of imports, size, and equal environments."""

import ast
import io
import re
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lama_minimal"

# A module imports only from groups above its own.
LAYERS = [
    "gradients memory",
    "winograd",
    "config masks fourier kernels classical checks",
    "models perceptual scenes download shards",
    "losses data metrics distances viz authors fast refine surroundings receptive_field reference",
    "steps checkpoint pretext export",
    "inference sandbox",
    "train evaluate grade",
    "bench widgets explorers course gradebook capstone handout app ablate debug_lab",
    "cli",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
WITHIN = {("masks", "config"), ("classical", "config"), ("shards", "download"), ("distances", "metrics")}
METHOD = "fourier models perceptual masks losses steps train".split()


def modules():
    return {path.stem: ast.parse(path.read_text()) for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lama_minimal"):
            name = node.module.removeprefix("lama_minimal").lstrip(".")
            names = [name.split(".")[0]] if name else [alias.name for alias in node.names]
            yield from (name for name in names if not name.startswith("__"))
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("lama_minimal."))


def test_imports_go_one_way():
    found = modules()
    assert found.keys() == LEVEL.keys()
    wrong = [
        f"{name} imports {other}"
        for name, tree in found.items()
        for other in imports(tree)
        if LEVEL[other] >= LEVEL[name] and (name, other) not in WITHIN
    ]
    assert not wrong
    assert "config" not in {other for name in ("fourier", "models", "perceptual") for other in imports(found[name])}
    assert not {"models", "config"} & set(imports(found["losses"]))


def test_the_import_test_sees_a_wrong_import():
    tree = ast.parse("def f():\n    from lama_minimal import train\n    import lama_minimal.cli")
    assert list(imports(tree)) == ["train", "cli"]


def test_no_function_is_longer_than_a_screen():
    long = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lines = node.end_lineno - body[0].lineno + 1
                if lines > 50:
                    long.append(f"{name}.{node.name}: {lines}")
    assert not long


def code_lines(path):
    """Lines with code on them: no blanks, comments or docstrings."""
    text = path.read_text()
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation |= set(range(node.lineno, node.end_lineno + 1))
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documentation)


def test_the_method_reads_in_about_1200_lines():
    assert sum(code_lines(PACKAGE / f"{name}.py") for name in METHOD) <= 1250


def test_conda_and_pip_ask_for_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][name] for name in ("course", "dev"))]
    renamed = {"torch": "pytorch", "opencv-python-headless": "py-opencv"}
    wanted = {"python": project["requires-python"]}
    for requirement in (requirement for group in groups for requirement in group):
        name, least = re.fullmatch(r"([\w-]+)(>=[\d.]+)", requirement).groups()
        wanted[renamed.get(name, name)] = least
    found = dict(re.findall(r"^  - ([\w-]+)(>=[\d.]+)$", (ROOT / "environment.yml").read_text(), re.MULTILINE))
    assert found == wanted


def test_exact_versions_lie_within_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    exact = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))

    def number(version):
        return [int(part) for part in re.findall(r"\d+", version)]

    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        name, least = requirement.split(">=")
        assert number(exact[name]) >= number(least), name


@pytest.mark.parametrize("path", ["README.md", "LICENSE", "Makefile", "environment.yml", "constraints.txt"])
def test_top_level_is_complete(path):
    assert (ROOT / path).exists()


def test_the_readme_points_at_files_that_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_the_readme_names_every_module():
    tree = (ROOT / "README.md").read_text()
    assert not [name for name in LEVEL if f"  {name}.py " not in tree]


def test_ci_calls_what_the_readme_says():
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()
