"""Keys for applications (ETSI GS QKD 014): what a node does between HTTPS and its key store.

Two nodes share the bits of a one-time-pad lane; the *master* asks its own node for keys, the *slave* fetches its copies at
the other one.  The way of a request, module by module::

    master -> desk -> master_end -> exchange ===== hub =====> slave_end -> shelf -> desk <- slave
                      |  window_offers: bits that both ends set aside, in advance
                      |  pending_keys: keys whose master gave up, or that go further than this peer

:mod:`.desk` checks who may have what, :mod:`.quotas` how much of it, :mod:`.master_end` makes batches of what was ordered
(:mod:`.orders`), :mod:`.exchange` says a batch until the peer has answered, :mod:`.slave_end` holds the copies on a
:mod:`.shelf` until they are fetched.  What the two ends say is in :mod:`.messages`.  Where a pair holds too little,
:mod:`.routes` finds nodes in the middle, and :mod:`.relaying` is what such a node does.
"""
