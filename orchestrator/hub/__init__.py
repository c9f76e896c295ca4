"""The meeting point of all processes, and the agent that is every process's end of it."""
