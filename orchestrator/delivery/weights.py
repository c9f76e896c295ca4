"""Which weights of clients a sum can have without giving somebody's values away.

A sum is that of ``w_i q_i``, with whole q_i in [-L, L].  It hides q_i only if another q_i, with other values of the
others, gives the same sum.  With weights 1, 300, 300 and L = 127 it does not: the first value is what is left modulo
300.  With weights 1, 3, 9 and L = 1 every value is a digit of the sum.

A client of weight w is hidden by c others of weight v if, with g = gcd(w, v), its value can move by v/g and theirs
by w/g together:

    v/g <= 2L,   w/g <= 2L c

That is sufficient and not necessary: some weights are refused that would hide a little.  How well those that pass
hide is another matter: of a client much heavier than all others together little is hidden (:mod:`fl.consent_words`
says so to whoever is asked).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def read_off(weights: Sequence[int], levels: int, fewest: int) -> int | None:
    """A weight whose clients' values a sum over at least ``fewest`` of the clients may give away, or None.

    ``weights``: one positive integer per client; ``levels`` is L.  Whichever clients are missing, the others that are
    left must hide each one.
    """
    reach, missing, counts = 2 * levels, len(weights) - fewest, Counter(weights)
    for own in counts:
        singly = 0  # others, each of which hides it alone
        together = False
        for other, number in counts.items():
            others, step = number - (own == other), math.gcd(own, other)
            if other // step > reach:
                continue
            together |= own // step <= reach * (others - missing)
            singly += others * (own // step <= reach)
        if not together and singly <= missing:
            return own
    return None
