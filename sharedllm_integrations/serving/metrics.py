"""Figures for Prometheus, under vLLM's names where vLLM has them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from sharedllm_integrations.serving.limits import Line
from sharedllm_integrations.serving.tenants import Ingestion

if TYPE_CHECKING:
    from sharedllm_integrations.engine import Run

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The figures of one server."""

    def __init__(self, lines: Sequence[Line], ingestion: Ingestion) -> None:
        self.registry = own = CollectorRegistry()

        def seconds(name: str, told: str) -> Histogram:
            return Histogram(f"sharedllm:{name}_seconds", told, registry=own, buckets=SECONDS)

        def count(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"sharedllm:{name}", told, labels, registry=own)

        self.first = seconds("time_to_first_token", "From request to first text.")
        self.between = seconds("inter_token_latency", "Between pieces of an answer.")
        self.queued = seconds("request_queue_time", "Waiting for the model.")
        self.whole = seconds("e2e_request_latency", "From request to the end.")
        self.ingested = seconds("ingest_time", "From a file's addition to its end.")
        self.read = count("prompt_tokens", "Tokens of prompts and documents.")
        self.cached = count("prompt_tokens_cached", "Of these, read before.")
        self.written = count("generation_tokens", "Tokens of answers.")
        self.ended = count("request_success", "Answers, by their ends.", "finished_reason")
        self.files = count("ingested_files", "Files, by status.", "status")
        self.ingested_tokens = count("ingested_tokens", "Tokens of files that were read.")

        def running() -> int:
            return sum(line.running for line in lines)

        def waiting() -> int:
            return sum(line.waiting for line in lines)

        for name, told, value in (
            ("num_requests_running", "Requests that are answered.", running),
            ("num_requests_waiting", "Requests that wait for the model.", waiting),
            ("num_files_waiting", "Files that wait to be read.", lambda: ingestion.waiting),
            ("ingest_lag_seconds", "Age of the file that is read.", lambda: ingestion.lag),
        ):
            Gauge(f"sharedllm:{name}", told, registry=own).set_function(value)

    def note_file(self, status: str, seconds: float, tokens: int) -> None:
        """Count a file that was read, or was not."""
        self.files.labels(status).inc()
        self.ingested_tokens.inc(tokens)
        self.ingested.observe(seconds)

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self.registry)


@dataclass
class Clock:
    """The times of one request, noted as they come."""

    metrics: Metrics
    since: float = field(default_factory=time.monotonic)
    last: float | None = None

    def begun(self) -> None:
        """The request's turn has come."""
        self.metrics.queued.observe(time.monotonic() - self.since)

    def piece(self) -> None:
        """A piece of the answer has come."""
        now = time.monotonic()
        if self.last is None:
            self.metrics.first.observe(now - self.since)
        else:
            self.metrics.between.observe(now - self.last)
        self.last = now

    def found(self, run: Run) -> None:
        """The passages are found, and the model begins to read."""

    def ended(self, run: Run) -> None:
        """The answer is whole."""
        own, used = self.metrics, run.usage
        own.whole.observe(time.monotonic() - self.since)
        own.ended.labels(run.finish_reason).inc()
        own.read.inc(used.read)
        own.cached.inc(used.reused)
        own.written.inc(used.written)

    def close(self, error: BaseException | None = None) -> None:
        """The request has ended, in whatever way."""


class _Replicas(Collector):
    """The figures of several servers, each with the label `replica`."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self._told = told

    def collect(self) -> Iterator[Metric]:
        """Give the metrics, each once, with the samples of all."""
        found: dict[str, Metric] = {}
        for replica, text in sorted(self._told.items()):
            for own in text_string_to_metric_families(text):
                all_of_it = found.setdefault(
                    own.name, Metric(own.name, own.documentation, own.type)
                )
                for name, labels, value, *_ in own.samples:
                    all_of_it.add_sample(name, {**labels, "replica": replica}, value)
        yield from found.values()


def of_replicas(told: Mapping[str, str]) -> bytes:
    """The figures of several servers as one text; `told` has that of each by its name."""
    registry = CollectorRegistry()
    registry.register(_Replicas(told))
    return generate_latest(registry)
