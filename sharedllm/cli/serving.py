"""``sharedllm serve --memory DIR`` and ``sharedllm serve-key TENANT --keys FILE``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedllm.cli.options import (
    AnsweringModel,
    Device,
    MemoryAdapter,
    MemoryDtype,
    Quantize,
    Reader,
    ReaderModel,
)
from sharedllm.cli.terminal import Screen
from sharedllm.errors import ConfigError

if TYPE_CHECKING:
    from sharedllm_integrations.serving import ServerConfig

app = typer.Typer()

Root = Annotated[
    str,
    typer.Option(
        "--memory",
        metavar="DIR",
        help="The memory to serve, made where there is none; with --keys, the folder of the "
        "tenants, each with its memory in a folder of its name.",
    ),
]
Keys = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Bearer keys, as serve-key writes them.", show_default="none"
    ),
]
KeysToWrite = Annotated[
    str, typer.Option("--keys", metavar="FILE", help="The file of keys, made where there is none.")
]
Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Needs --keys unless a loopback one.")]
Port = Annotated[int, typer.Option(metavar="N", help="0 takes a free one.")]
AtOnce = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Answers that are decoded in one batch, at most.",
        show_default="16 on a GPU, 4 on a CPU",
    ),
]
MaxWaiting = Annotated[
    int, typer.Option(metavar="N", help="Requests that may wait; more are refused with 429.")
]
Timeout = Annotated[float, typer.Option(metavar="S", help="Seconds that an answer may take.")]
Otel = Annotated[
    bool,
    typer.Option(
        "--otel",
        help="Send a span of each request to $OTEL_EXPORTER_OTLP_ENDPOINT (extra otel).",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|auto|local",
        help="Serve on a Ray cluster: at host:port, on this machine (auto), or started here "
        "(local). All machines must see DIR under the same path.",
    ),
]
Replicas = Annotated[
    str | None,
    typer.Option(
        metavar="N|MIN-MAX",
        help="Processes of --ray that answer; with MIN-MAX as many as the load needs.",
        show_default="1",
    ),
]
Cpus = Annotated[
    float | None,
    typer.Option(metavar="N", help="CPU cores of each process of --ray.", show_default="1"),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        help="GPUs of each process of --ray; may be a fraction.",
        show_default="0",
    ),
]
Searchers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Processes of --ray that look words up in the parts of a memory, each in its own; "
        "for millions of documents.",
        show_default="0",
    ),
]
Operator = Annotated[
    bool, typer.Option("--operator", help="The tenant's keys may read /metrics as well.")
]


@app.command()
def serve(
    memory: Root,
    keys: Keys = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    model: AnsweringModel = None,
    adapter: MemoryAdapter = None,
    reader: Reader = None,
    reader_model: ReaderModel = None,
    device: Device = None,
    dtype: MemoryDtype = None,
    quantize: Quantize = None,
    at_once: AtOnce = None,
    max_waiting: MaxWaiting = 32,
    timeout: Timeout = 300.0,
    otel: Otel = False,
    ray: Ray = None,
    replicas: Replicas = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
    searchers: Searchers = None,
) -> None:
    """Serve a memory to everything that speaks OpenAI's API (extra serve).

    [bold]Example:[/bold]  sharedllm serve --memory memory
    """
    from sharedllm_integrations.serving import ServerConfig

    given: dict[str, Any] = {
        "keys": keys,
        "model": model,
        "reader": reader,
        "reader_model": reader_model,
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "otel": otel,
        "at_once": at_once,
    }
    if adapter is not None:
        given["adapter"] = None if adapter == "none" else adapter
    config = ServerConfig.of(
        memory=memory, host=host, port=port, max_waiting=max_waiting, timeout=timeout, **given
    )
    scale = {"replicas": replicas, "num_cpus": cpus, "num_gpus": gpus, "searchers": searchers}
    wanted = {name: value for name, value in scale.items() if value is not None}
    if ray is not None:
        _serve_on_ray(config, ray, wanted)
    elif wanted:
        raise ConfigError(
            "--replicas, --cpus, --gpus and --searchers are of the processes of --ray; give --ray"
        )
    else:
        _serve_here(config)


def _serve_here(config: ServerConfig) -> None:
    from sharedllm_integrations.serving import bound_socket, load_model, run

    screen = Screen(silent=False)
    with bound_socket(config) as bound:
        with screen.busy("loading the model"):
            llm = load_model(config)
        screen.say(_told(config, bound.getsockname()[1]))
        run(config, llm, bound)


def _serve_on_ray(config: ServerConfig, address: str, scale: dict[str, Any]) -> None:
    from sharedllm.cluster.connecting import LOCAL, connected
    from sharedllm_integrations.serving import RayScale, deploy, run_until_signal

    wanted = RayScale.of(**scale)
    screen = Screen(silent=False)
    with screen.busy("starting the processes"):
        connected(address, "serve")
        # as Ctrl+C until the application is there: Ray's own handler aborts the process
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        deploy(config, wanted)
    screen.say(_told(config, config.port))
    run_until_signal(own_cluster=address == LOCAL)


def _told(config: ServerConfig, port: int) -> str:
    address = f"http://{config.host}:{port}"
    return (
        f"serving {config.memory}: the page is {address}, OpenAI's API {address}/v1 "
        "(stop with Ctrl+C)"
    )


@app.command("serve-key")
def serve_key(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")],
    keys: KeysToWrite,
    operator: Operator = False,
) -> None:
    """Make a bearer key for a tenant of serve, and print it; only its hash is kept.

    [bold]Example:[/bold]  sharedllm serve-key acme --keys keys.json
    """
    from sharedllm_integrations.serving import add_key

    typer.echo(add_key(Path(keys), tenant, operator=operator))
