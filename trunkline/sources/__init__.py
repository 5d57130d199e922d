"""Kits for sources: what a producer builds on."""

from trunkline.sources.cloudevents import CloudEvent, cloud_events
from trunkline.sources.signatures import SignedBody, StandardWebhooks
from trunkline.sources.webhook import Webhook
from trunkline.webhooks import WebhookRequest

__all__ = ["CloudEvent", "SignedBody", "StandardWebhooks", "Webhook", "WebhookRequest", "cloud_events"]
