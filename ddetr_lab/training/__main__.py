"""``python -m ddetr_lab.training RECIPE ...`` is ``ddetr-lab train RECIPE ...``, for ``torchrun -m``.

Built in chapter 16.
"""

from __future__ import annotations

import sys

from ddetr_lab.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
