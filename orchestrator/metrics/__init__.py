"""What a process counts and measures for Prometheus: every number follows from an event or item of status.

:mod:`~orchestrator.metrics.table` has one row per metric: its name, its labels, the kind of event it comes from and how it
follows from one.  :mod:`~orchestrator.metrics.book` is told events and gives numbers, :mod:`~orchestrator.metrics.exposition`
writes them as Prometheus reads them, :mod:`~orchestrator.metrics.readiness` says whether a role does its work.

Names are Prometheus's: base units at their end (``_seconds``, ``_bits``, ``_ratio``), ``_total`` for what only grows.
Labels come from closed sets, those of :class:`~orchestrator.metrics.rows.Names` among them, so that no text of a peer ever
becomes one.
"""
