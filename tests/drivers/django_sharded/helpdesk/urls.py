"""Where things are: each tenant's desk under its number."""

from django.contrib import admin
from django.urls import path

from desk import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("t/<int:tenant>/tickets/", views.tickets),
    path("t/<int:tenant>/tickets/<uuid:ticket>/", views.ticket),
    path("t/<int:tenant>/tickets/<uuid:ticket>/close/", views.close),
    path("t/<int:tenant>/report/", views.report),
]
