"""A laser of another maker, as its package would bring it: a row here, a driver and a twin beside it."""

from drivers import kinds
from drivers.catalogue import WHOLE, AddressKind, Row, SafeOrder

ROW = Row(
    model="acme-sl1",
    driver="acme_laser.driver:AcmeSL1",
    offers={kinds.LASER: WHOLE},
    safe_order=SafeOrder.LIGHT,
    address=AddressKind.HOST,
    ports=(7001,),
    twin="acme_laser.twin",
)
