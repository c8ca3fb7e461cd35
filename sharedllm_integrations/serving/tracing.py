"""OpenTelemetry: a span for each request, and within it search, prefill and decode.

It wraps the clock of a request, so that the server itself knows nothing of it. Spans hold numbers
and names of models, never a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from sharedllm import __version__
from sharedllm_integrations.serving.metrics import Clock, Metrics

if TYPE_CHECKING:
    from fastapi import FastAPI

    from sharedllm_integrations.engine import Run

UNTRACED = "health,ready,metrics"  # what monitors ask every few seconds
SCOPE = "sharedllm.serving"


def exporting() -> TracerProvider:
    """A provider that sends spans where the environment says (``OTEL_EXPORTER_OTLP_ENDPOINT``)."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    resource = Resource.create()  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "sharedllm"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def trace_requests(app: FastAPI, provider: trace.TracerProvider) -> None:
    """Make a span of each request of `app`."""
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        excluded_urls=UNTRACED,
        exclude_spans=["receive", "send"],
    )


class TracedClock(Clock):
    """The clock of one request, whose parts are spans within the request's own."""

    def __init__(self, metrics: Metrics, provider: trace.TracerProvider) -> None:
        super().__init__(metrics)
        self._tracer = provider.get_tracer(SCOPE, __version__)
        self._request = trace.get_current_span()
        self._part: trace.Span | None = None
        self._begin("queue")

    def begun(self) -> None:
        """The request's turn has come."""
        super().begun()
        self._begin("search")

    def found(self, run: Run) -> None:
        """The passages are found, and the model begins to read."""
        super().found(run)
        self._begin("prefill")

    def piece(self) -> None:
        """A piece of the answer has come."""
        if self.last is None:
            self._begin("decode")
        super().piece()

    def ended(self, run: Run) -> None:
        """The answer is whole."""
        super().ended(run)
        used, told = run.usage, run.answer.usage
        self._request.set_attributes(
            {
                "gen_ai.usage.input_tokens": used.read,
                "gen_ai.usage.output_tokens": used.written,
                "gen_ai.usage.cache_read.input_tokens": used.reused,
                "gen_ai.response.finish_reasons": [run.finish_reason],
                "sharedllm.scope": told.scope,
                "sharedllm.evidence_tokens": told.evidence_tokens,
                "sharedllm.citations": len(run.answer.citations),
            }
        )

    def close(self, error: BaseException | None = None) -> None:
        """The request has ended, in whatever way."""
        if self._part is not None:
            if error is not None:
                self._part.set_status(trace.StatusCode.ERROR, type(error).__name__)
            self._part.end()
            self._part = None

    def _begin(self, name: str) -> None:
        self.close()
        within: Any = trace.set_span_in_context(self._request)
        self._part = self._tracer.start_span(name, within)
