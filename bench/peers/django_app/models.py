"""Contacts, scripts and calls: one table each. Users are Django's own, their username is the e-mail address."""

import uuid

from django.conf import settings
from django.db import models

from bench.peers.vapi import STATUSES


class Owned(models.Model):
    """What belongs to a user."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="%(class)ss")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True


class Contact(Owned):
    name = models.CharField(max_length=200)
    phone = models.CharField(max_length=32)
    email = models.EmailField(null=True, blank=True)
    metadata = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ("created_at",)

    def __str__(self) -> str:
        return self.name


class CallScript(Owned):
    name = models.CharField(max_length=200)
    description = models.TextField(null=True, blank=True)
    custom_prompt = models.TextField(null=True, blank=True)
    first_message = models.TextField(null=True, blank=True)
    call_goals = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ("created_at",)

    def __str__(self) -> str:
        return self.name


class Call(Owned):
    contact = models.ForeignKey(Contact, on_delete=models.CASCADE, related_name="calls")
    script = models.ForeignKey(CallScript, on_delete=models.SET_NULL, null=True, blank=True, related_name="calls")
    vapi_call_id = models.CharField(max_length=64, unique=True, null=True)
    assistant_id = models.CharField(max_length=100)
    phone_number_id = models.CharField(max_length=100)
    custom_prompt = models.TextField(null=True, blank=True)
    first_message = models.TextField(null=True, blank=True)
    call_goals = models.JSONField(null=True, blank=True)
    metadata = models.JSONField(default=dict)
    status = models.CharField(max_length=20, choices=[(each, each) for each in STATUSES], default="pending")
    ended_reason = models.CharField(max_length=200, null=True)
    outcome = models.CharField(max_length=32, null=True)
    transcript = models.TextField(null=True)
    summary = models.TextField(null=True)
    analysis = models.JSONField(null=True)
    messages = models.JSONField(null=True)
    recording_url = models.URLField(max_length=500, null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    duration_seconds = models.IntegerField(null=True)
    cost = models.DecimalField(max_digits=14, decimal_places=6, null=True)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"{self.id} {self.status}"
