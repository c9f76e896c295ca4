"""Keys to applications over HTTPS: ETSI GS QKD 014 v1.1.1 in front of a node's desk.

Mutual TLS 1.3 proves who is asking (:mod:`~orchestrator.delivery.http.proving`), from one machine at a time
(:mod:`~orchestrator.delivery.http.callers`); a request is read by pure functions
(:mod:`~orchestrator.delivery.http.asks`), put to the desk, and its answer written and wiped
(:mod:`~orchestrator.delivery.http.answers`).  One connection is one
:class:`~orchestrator.delivery.http.connection.Connection`, a state machine over h11;
:class:`~orchestrator.delivery.http.server.KeyServer` listens.  Why no ready server: docs/decisions/0016-keys-by-h11.md.
"""
