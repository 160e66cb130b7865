"""The seed's paths, as far as they are measured."""

from django.urls import path
from rest_framework_simplejwt.views import TokenObtainPairView, TokenRefreshView

from bench.peers.django_app import views

urlpatterns = [
    path("api/calls/webhook/", views.Webhook.as_view()),
    path("api/calls/", views.Calls.as_view()),
    path("api/calls/pending-count/", views.PendingCount.as_view()),
    path("api/calls/stats/", views.Stats.as_view()),
    path("api/calls/<uuid:pk>/", views.OneCall.as_view()),
    path("api/contacts/", views.Contacts.as_view()),
    path("api/token/", TokenObtainPairView.as_view()),
    path("api/token/refresh/", TokenRefreshView.as_view()),
    path("healthz", views.healthz),
]
