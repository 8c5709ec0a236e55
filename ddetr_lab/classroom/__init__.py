"""The teacher's side: a class set without answers, and the grading of what comes back.

``exercises`` reads what the book asks, ``student`` writes the set, ``submissions`` reads what was handed in, and
``referee`` grades one notebook: the student's code runs in a ``sandbox``, the checks run outside of it, and only plain
values cross the ``wire`` between the two. So no submission can write its own verdict, whatever it does to its process.

Used in every chapter.
"""
