from schemas import OrderPlacedV1

from trunkline import Bus, Event, Publish, Secret, Topic
from trunkline.sources import StandardWebhooks, Webhook, WebhookRequest


class Shop(Webhook):
    name = "shop"

    def events(self, request: WebhookRequest) -> list[Event[OrderPlacedV1]]:
        return []


orders = Topic("orders", OrderPlacedV1, key="id")

bus = Bus("orders", [Publish(Shop(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=orders)])
