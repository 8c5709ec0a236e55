"""``ddetr-lab benchmark``: how fast this is, beside whatever else is installed, in one process and one run.

Every subcommand first checks that all contenders give the same numbers, then lets them run in turn, and reports
medians with their quartiles, ratios, peak memory, the machine and the versions. ``command`` is the way in.

Used in chapter 9.
"""
