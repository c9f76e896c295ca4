"""Every event and item of status as a typed struct: one shape from its source to log, page, metric and live follower.

:mod:`~orchestrator.events.status` is what roles say of themselves to the hub, and it to observers;
:mod:`~orchestrator.events.learning` is what a training run reports; :mod:`~orchestrator.events.delivery` what
applications were given; :mod:`~orchestrator.events.process` is what processes print, and reads it again;
:mod:`~orchestrator.events.inside` is what a process tells its own metrics alone; :mod:`~orchestrator.events.common` is for
all of them.  A kind has its fields here and nowhere else, and none holds a key bit or a model parameter.

A new kind takes three files: its struct here (with ``about`` and ``said_by`` for an item of status, and in the union
of its module), its source, and where people read it.  Logs, ``status --json`` and ``--watch`` take every kind; what is a metric of it stands in
:mod:`orchestrator.metrics`.
"""
