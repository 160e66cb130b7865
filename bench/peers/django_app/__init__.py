"""The seed's own stack, as a competent team would write it: Django, Django REST Framework, simplejwt, gunicorn.

Synchronous, gunicorn with 2 workers of 4 threads (gthread), psycopg 3, one table per object, the webhook applied in the
request. It answers the members that the seed's page shows and none that ours adds, which is in its favour.

Indexes: those that Django makes (primary keys, the foreign keys, the unique provider id) and no more. Lists are ordered
by `Meta.ordering = ["-created_at"]`, which has none: that is what the models of such a product look like until somebody
profiles them. `start(..., index=True)` adds what somebody would add then, (user, created_at DESC), so that a table can
show both. Pages still count what they page through, as Django's paginator does.

In both settings, because a good team would: DEBUG off, select_related for the contact, large JSON columns deferred in
lists, `update_fields` in the webhook, JSON as the only renderer, keep-alive. gunicorn's C parser (gunicorn[fast]) is
left out: it has no wheels for Linux, `make setup` must not need a compiler, and it brought 3 % at most. Of the ways to
keep connections, CONN_MAX_AGE with prepared statements took the least CPU time, less than Django's pool.

`django`             what startproject and the documents of DRF and simplejwt give: their middleware and apps, a
                     connection a request, the user fetched for every token, passwords by PBKDF2
`django-persistent`  persistent connections, prepared statements, JWTs trusted without fetching the user, one middleware
"""
