"""What a Prometheus and a Grafana need to watch a testbed: alert rules and a dashboard, as files beside this one.

``alerts.yml`` and ``dashboard.json`` are written by ``python docs/scripts/monitoring.py`` from :mod:`lab.monitoring.alerts`, which
mirrors the table of alarms, and :mod:`lab.monitoring.dashboard`.  A test holds every name in them against the table of metrics.
"""
