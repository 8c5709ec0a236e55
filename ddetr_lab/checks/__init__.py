"""Checks for the exercises: a wrong answer raises, and the error's hint names the misconception behind it.

Each chapter has a module, each exercise a function of its own, called with the reader's function::

    from ddetr_lab.checks import chapter00 as checks

    checks.xyxy_to_cxcywh(my_function)

Built in chapter 0.
"""

from ddetr_lab.checks.core import CheckError, Passed

__all__ = ["CheckError", "Passed"]
