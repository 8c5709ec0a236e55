"""Advice to the caller that a loop over a data set does not repeat.

Built in chapter 2.
"""

from __future__ import annotations

import logging
from functools import lru_cache

__all__ = ["warn_once"]


@lru_cache(maxsize=256)
def warn_once(logger_name: str, message: str) -> None:
    """Log ``message`` as a warning the first time that it is asked for, and never again in this process.

    A log line and not :mod:`warnings`: pictures are processed in loader workers, a thousand times an epoch, and
    a run with ``-W error`` must not die of advice.
    """
    logging.getLogger(logger_name).warning(message)
