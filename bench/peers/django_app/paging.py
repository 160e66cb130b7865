"""Pages by number, as the seed shows them."""

from typing import Any

from rest_framework.pagination import PageNumberPagination
from rest_framework.response import Response


class Pages(PageNumberPagination):
    page_size = 20
    page_size_query_param = "limit"
    max_page_size = 100

    def get_paginated_response(self, data: Any) -> Response:
        paginator = self.page.paginator
        return Response({"total": paginator.count, "page": self.page.number, "limit": paginator.per_page, "data": data})
