"""Key at rest, one store per node: in lanes, released once, equal at both ends or destroyed."""
