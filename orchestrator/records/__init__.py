"""What a role writes down of its own work, for whoever wants to prove later what happened; never a bit of key."""
