from consumers.sinks.warehouse import Warehouse
from producers.storefront import Storefront
from schemas import StockMovementV1
from trunkline import (
    ApiKey,
    Basic,
    Bearer,
    Bus,
    ClientCredentials,
    Deliver,
    Publish,
    Rotation,
    Secret,
    SignedWebhook,
    Target,
    Topic,
    env,
)
from trunkline.sources import StandardWebhooks

movements = Topic("shop.stock-movements", StockMovementV1, key="sku")
URL = env("STOCK_URL")
written = Basic("us", "a-password")
login = ClientCredentials("https://login", env("CLIENT"), env("SECRET"), scope=7, sent_in="query")
nested = Rotation(Rotation(Bearer(Secret("A")), Bearer(Secret("B"))), Bearer("a-token"))
queried = Rotation(ApiKey(Secret("A"), query="key"), Bearer(Secret("B")))
placed = ClientCredentials(env("TOKEN_URL"), env("CLIENT"), Secret("SECRET"), sent_in="query")


def to(name: str, auth: object) -> Deliver:
    sink = type(name, (Warehouse,), {"name": name})
    return Deliver(movements, to=sink(Target(name, URL, auth=auth)))


bus = Bus(
    "shop",
    [
        Publish(Storefront(verify=StandardWebhooks(Secret("STOREFRONT_SECRET"))), to=movements),
        to("written", written),
        to("login", login),
        to("nested", nested),
        to("queried", queried),
        to("placed", placed),
        to("webhook", SignedWebhook(Secret("A"), also="b")),
        to("unnamed", SignedWebhook(Secret("A"))),
    ],
)
