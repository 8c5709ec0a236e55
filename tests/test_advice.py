"""Advice is logged, and not repeated."""

from ddetr_lab.advice import warn_once


def test_advice_is_given_once(caplog):
    for _ in range(3):
        warn_once("ddetr_lab.test", "said by test_advice_is_given_once")
    assert [record.getMessage() for record in caplog.records] == ["said by test_advice_is_given_once"]
