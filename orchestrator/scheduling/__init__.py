"""Which pair gets the ring next, and the leases with which it does, on the orchestrator's side and a party's."""
