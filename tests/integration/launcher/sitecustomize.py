"""Put on PYTHONPATH by a test, so that Python runs it first in every process of a real run; see the two modules."""

import noted_secrets
import stepped_clock

noted_secrets.install()
stepped_clock.install()
