from collections.abc import Iterator, Mapping

from schemas import ReadingV1
from trunkline import Bus, Drop, Enrich, Event, Process, Publish, Secret, Table, Topic
from trunkline.sources import StandardWebhooks, Webhook, WebhookRequest


class Meters(Webhook):
    name = "meters"

    def events(self, request: WebhookRequest) -> list[Event[ReadingV1]]:
        return []


def with_last(event: Event[ReadingV1], last: Mapping[str, ReadingV1]) -> Event[ReadingV1] | Drop:
    return event


def same(event: Event[ReadingV1]) -> Iterator[ReadingV1]:
    yield event.data


readings = Topic("readings", ReadingV1, key="metre")
last = Table("last", ReadingV1, key="meter")
by_value = Topic("by-value", ReadingV1, key="value")
by_price = Topic("by-price", ReadingV1, key="price")
by_unit = Topic("by-unit", ReadingV1, key="unit")
by_place = Topic("by-place", ReadingV1, key="seen_from")
by_tags = Topic("by-tags", ReadingV1, key="tags")
by_notes = Topic("by-notes", ReadingV1, key="notes")
by_other = Topic("by-other", ReadingV1, key="x")
out = [by_value, by_price, by_unit, by_place, by_tags, by_notes, by_other]

bus = Bus(
    "meters",
    [
        Publish(Meters(verify=StandardWebhooks(Secret("SIGNING_SECRET"))), to=readings),
        Process(readings, [Enrich(with_last, last)], to=dict.fromkeys(out, same)),
    ],
)
