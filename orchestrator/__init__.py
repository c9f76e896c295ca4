"""Making key: who uses the ring when, light, post-processing, and a store of key at every user.

From the ground up, each room importing only those before it:

* ``bits``, ``secret``, ``durable`` and ``wire``: the leaves, which :mod:`fl` may use as well;
* ``protocols``: what is prepared, what is kept, how many bits are secret; ``keystore``: key at rest;
* ``hub``: the meeting point of all processes and their agents; ``light``: the light phase of a lease;
* ``scheduling``: which pair gets the ring next, and the lease with which it does;
* ``postprocessing``: from clicks to a block of key; ``delivery``: key for the user's learning client;
* ``processes``: orchestrator, relay and node, put together from all of these.
"""
