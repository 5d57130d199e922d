"""Kits for sources: what a producer builds on."""

from trunkline.adapters import WebhookRequest
from trunkline.sources.signatures import SignedBody, StandardWebhooks
from trunkline.sources.webhook import Webhook

__all__ = ["SignedBody", "StandardWebhooks", "Webhook", "WebhookRequest"]
