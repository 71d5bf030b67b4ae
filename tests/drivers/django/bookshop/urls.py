"""Where requests go."""

from django.urls import path

import catalog.views
import shop.views

urlpatterns = [
    path("books/", catalog.views.books),
    path("books/<int:pk>/", catalog.views.book),
    path("authors/", catalog.views.authors),
    path("export/", catalog.views.export),
    path("orders/", shop.views.place_order),
    path("orders/<int:pk>/", shop.views.order),
    path("customers/<int:pk>/orders/", shop.views.customer_orders),
    path("report/", shop.views.report),
    path("login/", shop.views.log_in),
    path("whoami/", shop.views.whoami),
]
