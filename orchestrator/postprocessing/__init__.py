"""From the clicks of a block to secret key: sifting, correction, verification, amplification, authentication."""
