"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Names = Annotated[
    list[str] | None,
    typer.Option("--protocol", help="Measure only this protocol. Repeat the option for more. Default: all."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file, which compare reads.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write one self-contained page to this file.")]
Clients = Annotated[int, typer.Option("--clients", help="Number of clients.")]
Coordinates = Annotated[int, typer.Option("--coordinates", help="Number of values in an update.")]
Dropout = Annotated[
    float, typer.Option(help="Share of the clients that stop answering just before their input, 0 to 1.")
]
Bits = Annotated[int, typer.Option(help="Bits of a quantized value.")]
Seed = Annotated[int, typer.Option(help="Seed of the updates. Keys and masks never depend on it.")]
Points = Annotated[
    str | None, typer.Option(help="Values of the varied quantity, separated by commas, such as 8,16,32.")
]
Picture = Annotated[
    Path, typer.Option(help="The picture: a name in .png, .svg or .pdf. Any other name makes a .png and a .svg.")
]
