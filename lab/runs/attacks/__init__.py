"""The attack range of a simulated ring: who carries an attack, how it is begun and ended."""
