"""Keys for applications: the desk of a node, and the giving and the keeping end of what two nodes share."""
