"""What goes out and what may come in."""

from typing import Any, ClassVar

from django.db.models import QuerySet
from rest_framework import serializers

from bench.peers.django_app.models import Call, CallScript, Contact


class ContactBrief(serializers.ModelSerializer):
    class Meta:
        model = Contact
        fields = ("id", "name", "phone")


class ContactSerializer(serializers.ModelSerializer):
    class Meta:
        model = Contact
        fields = ("id", "name", "phone", "email", "metadata", "created_at")


class CallItem(serializers.ModelSerializer):
    contact = ContactBrief(read_only=True)

    class Meta:
        model = Call
        fields = (
            "id",
            "contact",
            "status",
            "transcript",
            "summary",
            "started_at",
            "ended_at",
            "duration_seconds",
            "created_at",
        )


class CallDetail(CallItem):
    contact = ContactSerializer(read_only=True)
    metadata = serializers.SerializerMethodField()

    class Meta(CallItem.Meta):
        fields = (*CallItem.Meta.fields, "vapi_call_id", "analysis", "metadata")

    def get_metadata(self, call: Call) -> dict[str, Any]:
        more = {
            "recordingUrl": call.recording_url,
            "messages": call.messages,
            "cost": None if call.cost is None else float(call.cost),
        }
        return {**call.metadata, **{name: value for name, value in more.items() if value is not None}}


class Own(serializers.PrimaryKeyRelatedField):
    """Something of the caller's own."""

    def get_queryset(self) -> QuerySet:
        return super().get_queryset().filter(user_id=self.context["request"].user.pk)


class CallRequest(serializers.ModelSerializer):
    """A call to place."""

    contact_id = Own(source="contact", queryset=Contact.objects.all())
    script_id = Own(source="script", queryset=CallScript.objects.all(), required=False, allow_null=True)

    class Meta:
        model = Call
        fields = (
            "contact_id",
            "assistant_id",
            "phone_number_id",
            "script_id",
            "custom_prompt",
            "first_message",
            "call_goals",
            "metadata",
        )
        extra_kwargs: ClassVar = {"metadata": {"required": False}}


class CallCreated(serializers.ModelSerializer):
    class Meta:
        model = Call
        fields = ("id", "status", "vapi_call_id", "created_at")
