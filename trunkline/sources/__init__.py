"""Kits for sources: what a producer builds on."""

from trunkline.adapters import WebhookRequest
from trunkline.sources.signatures import StandardWebhooks
from trunkline.sources.webhook import Webhook

__all__ = ["StandardWebhooks", "Webhook", "WebhookRequest"]
