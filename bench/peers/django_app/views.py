"""The endpoints that are measured."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import requests
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import TruncDate
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bench.peers import dashboard, vapi
from bench.peers.django_app import provider
from bench.peers.django_app.models import Call, Contact
from bench.peers.django_app.serializers import CallCreated, CallDetail, CallItem, CallRequest, ContactSerializer


def healthz(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


class Calls(generics.ListCreateAPIView):
    serializer_class = CallItem

    def get_queryset(self) -> QuerySet[Call]:
        found = Call.objects.filter(user_id=self.request.user.pk).select_related("contact")
        if statuses := self.request.query_params.getlist("status"):
            found = found.filter(status__in=statuses)
        return found.defer("analysis", "messages", "metadata", "contact__metadata")

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        asked = CallRequest(data=request.data, context={"request": request})
        asked.is_valid(raise_exception=True)
        # Committed before the provider is asked: its webhooks may be here before its answer is.
        call = asked.save(user_id=request.user.pk)
        try:
            call.vapi_call_id = provider.place(call)
        except requests.RequestException:
            Call.objects.filter(pk=call.pk).update(status="failed")
            return Response({"detail": "the provider did not take the call"}, status=502)
        call.save(update_fields=["vapi_call_id", "updated_at"])
        return Response(CallCreated(call).data, status=201)


class OneCall(generics.RetrieveAPIView):
    serializer_class = CallDetail

    def get_queryset(self) -> QuerySet[Call]:
        return Call.objects.filter(user_id=self.request.user.pk).select_related("contact")


class PendingCount(APIView):
    def get(self, request: Request) -> Response:
        return Response({"count": Call.objects.filter(user_id=request.user.pk, status__in=vapi.ACTIVE).count()})


class Stats(APIView):
    def get(self, request: Request) -> Response:
        calls = Call.objects.filter(user_id=request.user.pk).order_by()
        totals = calls.aggregate(spent=Sum("cost"), made=Count("pk"), failed=Count("pk", filter=Q(status="failed")))
        since = datetime.combine(dashboard.first_day(), datetime.min.time(), UTC)
        daily = (
            calls.filter(status="completed", created_at__gte=since)
            .annotate(day=TruncDate("created_at"))
            .values("day")
            .annotate(count=Count("pk"))
        )
        contacts = Contact.objects.filter(user_id=request.user.pk).count()
        completed = {row["day"]: row["count"] for row in daily}
        spent = totals["spent"] or Decimal(0)
        return Response(dashboard.answer(spent, totals["made"], totals["failed"], contacts, completed))


class Webhook(APIView):
    """Applied while the provider waits: the row is locked, so that two webhooks of one call do not overtake."""

    authentication_classes = ()
    permission_classes = ()

    def post(self, request: Request) -> Response:
        if not constant_time_compare(request.headers.get("x-vapi-secret", ""), settings.VAPI_WEBHOOK_SECRET):
            return Response({"detail": "wrong secret"}, status=401)
        message = request.data.get("message") or {}
        if call_id := vapi.call_id_of(message):
            self._apply(call_id, message)
        return Response({"ok": True})

    def _apply(self, call_id: str, message: dict[str, Any]) -> None:
        with transaction.atomic():
            try:
                call = Call.objects.select_for_update().only("status").get(vapi_call_id=call_id)
            except Call.DoesNotExist:
                return
            changes = vapi.changes(call.status, message)
            if not changes:
                return
            for name, value in changes.items():
                setattr(call, name, value)
            call.save(update_fields=[*changes, "updated_at"])


class Contacts(generics.ListAPIView):
    serializer_class = ContactSerializer
    pagination_class = None

    def get_queryset(self) -> QuerySet[Contact]:
        return Contact.objects.filter(user_id=self.request.user.pk)
