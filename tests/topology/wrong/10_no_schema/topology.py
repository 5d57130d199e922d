from schemas import BrokenV1, ListV1, OddV1, OrderPlacedV1, OrderPlacedV2
from typing_extensions import TypedDict

from trunkline import Bus, Process, Publish, Secret, Topic
from trunkline.sources import StandardWebhooks, Webhook


class Placed(TypedDict):
    id: str


class Shop(Webhook):
    name = "shop"

    def events(self, request):
        return []


def route(event):
    yield event.data


right = Topic("right", OrderPlacedV1, key="id")
second = Topic("second", OrderPlacedV2, key="id")
by_hand = Topic("by-hand", Placed, key="id")
plain = Topic("plain", dict)
odd = Topic("odd", OddV1, key="id")
union = Topic("union", ListV1, key="id")
broken = Topic("broken", BrokenV1, key="id")

bus = Bus(
    "orders",
    [
        Publish(Shop(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=right),
        Process(right, [], to=dict.fromkeys([second, by_hand, plain, odd, union, broken], route)),
    ],
)
