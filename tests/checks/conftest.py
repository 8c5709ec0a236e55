"""Hand each chapter's answers to the tests of ``contract.py`` that its file imports."""

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names, module = metafunc.fixturenames, metafunc.module
    if "right_answer" in names:
        metafunc.parametrize(("check", "right_answer"), module.RIGHT, ids=lambda value: value.__name__)
    elif "wrong_answer" in names:
        metafunc.parametrize(("check", "wrong_answer", "hint"), module.WRONG)
    elif "checked" in names:
        metafunc.parametrize("checked", [check for check, _ in module.RIGHT], ids=lambda value: value.__name__)
    elif "chapter" in names:
        metafunc.parametrize("chapter", [module], ids=[module.__name__.rpartition(".")[2]])
