"""Why a detector does not learn: the test on eight pictures, the tell-tales of usual faults, and the faults planted.

* ``overfit``: the quickest test there is: can the model learn a handful of pictures by heart?
* ``telltales``: what a batch, a model, a log and its scores say about usual faults;
* ``planted_faults``: eight faults from real reports, each a function that spoils such a test;
* ``bad_curves``: runs whose curves a reader should know;
* ``command``: ``ddetr-lab diagnose``.

Built in chapters 16 and 19.
"""
