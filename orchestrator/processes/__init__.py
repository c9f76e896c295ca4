"""The processes on the testbed: orchestrator, relay and node."""
