"""The files around the package agree with each other: one version, one list of dependencies, no trace of a machine."""

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import ddetr_lab

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
ENVIRONMENT: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CONDA_NAMES = {"pytorch": "torch"}


def tracked_files() -> list[Path]:
    """Every file of the repository; of a download without git, every file that .gitignore would not name."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode == 0 and git.stdout:
        return [path for name in git.stdout.split("\0") if name and (path := ROOT / name).is_file()]
    skipped = {".venv", "_build", "__pycache__", ".git", "runs", "ddetr_lab.egg-info"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not skipped & set(path.relative_to(ROOT).parts)]


def requirements(extra: str | None = None) -> dict[str, Requirement]:
    """Requirements by name: of the package itself, or of one extra."""
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    return {requirement.name: requirement for requirement in map(Requirement, lines)}


# The project file


def test_version_is_one() -> None:
    assert ddetr_lab.__version__ == PROJECT["version"]


def test_dependencies_are_ranges_and_torch_has_the_stable_abi() -> None:
    for extra in (None, *PROJECT["optional-dependencies"]):
        for name, requirement in requirements(extra).items():
            if name == "jupyter-book":  # its next releases are another program
                assert str(requirement.specifier) == "==1.0.4.post1"
            elif name != PROJECT["name"]:
                assert any(part.operator == ">=" for part in requirement.specifier), requirement
                assert all(part.operator in (">=", "<") for part in requirement.specifier), requirement
    assert "2.9.1" not in requirements()["torch"].specifier
    assert "2.10.0" in requirements()["torch"].specifier


def test_extras_build_on_each_other() -> None:
    assert {"train", "book", "test", "dev", "peers"} == set(PROJECT["optional-dependencies"])
    for extra, inner in (("book", "train"), ("test", "book"), ("dev", "test")):
        assert requirements(extra)["ddetr-lab"].extras == {inner}


def test_peers_are_installed_by_nobody_who_did_not_ask() -> None:
    peers = set(requirements("peers"))
    for extra in (None, "train", "book", "test", "dev"):
        assert not peers & set(requirements(extra))


def test_what_the_package_imports_is_declared() -> None:
    declared = {name.lower().replace("-", "_") for extra in (None, "train") for name in requirements(extra)}
    known = {"PIL": "pillow", "sklearn": "scikit_learn", "skimage": "scikit_image"}
    declared |= {"ipython", "traitlets"}  # imported only where a notebook is running, and there they are
    peers = {name.lower().replace("-", "_") for name in requirements("peers")} | {"deformops"}  # needs a GPU
    declared.add("triton")  # comes with torch's builds for GPUs; ops.triton says where it is missing
    pattern = re.compile(r"^\s*(?:import|from)\s+([A-Za-z_]\w*)", re.M)
    for path in (ROOT / "ddetr_lab").rglob("*.py"):
        code = re.sub(r'"""(?:.|\n)*?"""', "", path.read_text(encoding="utf-8"))
        for name in set(pattern.findall(code)) - set(sys.stdlib_module_names) - {"ddetr_lab"}:
            allowed = declared | peers if path.name == "peers.py" else declared
            assert known.get(name, name).lower() in allowed, f"{path.name} imports {name}"


def test_warnings_are_errors_except_named_third_parties() -> None:
    options = PYPROJECT["tool"]["pytest"]["ini_options"]
    assert options["filterwarnings"][0] == "error"
    for exception in options["filterwarnings"][1:]:
        action, message, _category, module = exception.split(":")[:4]
        assert action == "ignore" and message and module and "ddetr_lab" not in module, exception
    assert "--strict-markers" in options["addopts"]


# Conda and Binder


def test_environment_has_the_ranges_of_pyproject() -> None:
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    conda = [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]
    assert "pip" in conda
    for line in conda:
        name, specifier = re.findall(r"^([\w-]+)(.*)", line)[0]
        if name == "python":
            assert specifier.split(",")[0] == PROJECT["requires-python"]
        elif name != "pip":
            declared = requirements()[CONDA_NAMES.get(name, name)]
            assert SpecifierSet(specifier) == declared.specifier, line


def test_environment_installs_this_repository_with_its_extras() -> None:
    (pip,) = [entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict)]
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", line)
    assert extras is not None
    assert set(extras.group(1).split(",")) == {"book", "test"}


# The book's settings


def test_outputs_are_shown_and_never_made_while_rendering() -> None:
    assert CONFIG["execute"] == {"execute_notebooks": "off", "stderr_output": "error"}
    assert CONFIG["only_build_toc_files"] is True


def test_mathjax_comes_from_the_repository() -> None:
    sphinx = CONFIG["sphinx"]["config"]
    (vendor,) = sphinx["html_extra_path"]
    script = ROOT / "book" / vendor / sphinx["mathjax_path"].removeprefix("../")
    assert script.stat().st_size > 1_000_000
    assert '"3.2.2"' in script.read_text(encoding="utf-8")
    assert "Apache License" in (script.parent / "LICENSE").read_text(encoding="utf-8")


def test_no_address_is_made_up() -> None:
    assert CONFIG["repository"]["url"] == ""
    assert not {"use_repository_button", "use_edit_page_button", "use_issues_button"} & set(CONFIG["html"])


# Makefile and continuous integration


@pytest.mark.parametrize("target", ["help", "book", "test", "lab", "lint", "golden-report", "clean"])
def test_make_has_target_and_help_names_it(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.M)
    if target != "help":
        assert f"make {target} " in MAKEFILE


def test_make_test_runs_tests_and_notebooks_and_ends_on_pytest() -> None:
    recipe = MAKEFILE.split("\ntest: $(TEST_READY) ops\n")[1].split("\n\n")[0].strip().splitlines()
    assert recipe[-1].strip().startswith("$(PY) -m pytest tests book $(NBVAL)")
    assert "--dist loadfile" in recipe[-1]
    assert "--nbval-lax" not in MAKEFILE
    flags = "--nbval-current-env --nbval-sanitize-with=tests/book/nbval_sanitize.cfg --nbval-cell-timeout=600"
    assert flags in MAKEFILE


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert [line for line in lines if line and not line.startswith("#")] == [
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")/.."',
        "make test",
    ]


# Licences


def test_licences() -> None:
    code = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in code and "Version 2.0" in code and len(code.splitlines()) > 190
    prose = (ROOT / "book" / "LICENSE").read_text(encoding="utf-8")
    assert "CC BY 4.0" in prose and "https://creativecommons.org/licenses/by/4.0/" in prose
    assert PROJECT["license"] == "Apache-2.0 AND CC-BY-4.0"
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])


# No trace of a machine

# Written in two halves, so that this file does not find itself.
TRACES = [
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/ho" + "me/",
    "/Us" + "ers/",
    "/tmp/" + "ref",
    "py" + "pi.org",
    "files.python" + "hosted",
    "registry.npm" + "js",
    "conda." + "anaconda",
    "download.py" + "torch.org",
]


@pytest.mark.parametrize("trace", TRACES)
def test_no_file_names_a_machine_or_a_registry(trace: str) -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if "_vendor" not in path.parts and trace.encode() in path.read_bytes()
    ]
    assert found == []


def test_no_tracked_file_is_large() -> None:
    large = {path.name: path.stat().st_size for path in tracked_files() if path.stat().st_size > 12_000_000}
    assert large == {}


def test_no_build_product_is_tracked() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked_files()]
    assert [
        name for name in names if re.search(r"(^|/)(_build|__pycache__|\.venv|\.ipynb_checkpoints)/|\.pyc$", name)
    ] == []


# Style, with the settings that `make lint` uses


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["ruff-check", "ruff-format", "mypy"],
)
def test_style(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


# What every test may count on (conftest.py)


def test_the_network_is_closed() -> None:
    with socket.socket() as connection, pytest.raises(RuntimeError, match="do not use the network"):
        connection.connect(("192.0.2.1", 80))


def test_import_loads_nothing_heavy() -> None:
    """`import ddetr_lab` is a table of names: torch and the rest come when they are used."""
    code = "import ddetr_lab, sys; print(sorted({'torch', 'timm', 'numpy', 'matplotlib', 'scipy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr
