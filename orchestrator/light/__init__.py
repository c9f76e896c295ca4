"""The light phase of a lease: what relay and users say, what they do with light, and which clicks remain."""
