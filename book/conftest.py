"""Keep the cells of a notebook in order: the tests run in random order, a notebook must not."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put back each notebook's cells in their order, after the shuffle and without moving any test."""
    places = [place for place, item in enumerate(items) if item.path.suffix == ".ipynb"]
    cells = sorted((items[place] for place in places), key=lambda cell: (str(cell.path), cell.cell_num))
    for place, cell in zip(places, cells, strict=True):
        items[place] = cell
