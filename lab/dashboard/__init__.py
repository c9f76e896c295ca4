"""The control room: what a running testbed says, in a browser, and the few things that an operator does from there.

:mod:`~lab.dashboard.board` holds the newest value of everything, numbered; :mod:`~lab.dashboard.watching` fills it from the hub
and :mod:`~lab.dashboard.machine_watch` from this machine; :mod:`~lab.dashboard.application` serves it, and
:mod:`~lab.dashboard.actions` does what is asked.  The pages are plain JavaScript modules in ``static``.
"""
