# syntax=docker/dockerfile:1
# One image for every process; the first argument chooses: gateway (default), contacts, calls, webhooks, simulator,
# migrate, streams.

FROM python:3.13-slim AS build
RUN pip install --no-cache-dir --disable-pip-version-check 'uv>=0.13,<0.14'
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/app
WORKDIR /src

# Third-party packages first: this layer changes with the lock file only.
COPY pyproject.toml uv.lock ./
COPY libs/common/pyproject.toml libs/common/
COPY libs/devkit/pyproject.toml libs/devkit/
COPY services/gateway/pyproject.toml services/gateway/
COPY services/contacts/pyproject.toml services/contacts/
COPY services/calls/pyproject.toml services/calls/
COPY services/webhooks/pyproject.toml services/webhooks/
COPY services/simulator/pyproject.toml services/simulator/
RUN uv sync --frozen --only-group services --no-install-workspace --no-editable

COPY libs/common libs/common
COPY services services
RUN uv sync --frozen --only-group services --no-editable

FROM python:3.13-slim
RUN groupadd --gid 10001 app \
    && useradd --uid 10001 --gid app --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin app \
    && install -d -o app -g app /data \
    && install -d -o app -g app -m 700 /var/lib/boostedcalls/spool
COPY --from=build /app /app
COPY --chmod=755 scripts/entrypoint /usr/local/bin/boostedcalls
ENV PATH=/app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /data
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["boostedcalls"]
CMD ["gateway"]
