"""hsi-export: a run folder in, one verified model file out.

hsi-export runs/pines
"""

from pathlib import Path

import click

from hsi_runtime import command_line


@click.command(name="hsi-export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Model file.  [default: RUN/model.onnx; with --compact, --fp16 or both "
    "model.compact.onnx, model.fp16.onnx, model.compact.fp16.onnx]",
)
@click.option("--fp16", is_flag=True, help="Convert to half precision, for GPUs.")
@click.option(
    "--tensorrt",
    is_flag=True,
    help="Also build the engine of this machine's GPU, into the engine cache.",
)
@click.option(
    "--compact",
    is_flag=True,
    help="Let layers that read all bands share a projection: faster, nearly equal.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@command_line.common_options
def command(
    run: Path,
    output: Path | None,
    fp16: bool,
    tensorrt: bool,
    compact: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Export the inference graph of RUN to one ONNX file.

    The file is compared with torch on real windows of the training scene, through the
    runtime's own code; if it differs, the exit code is 7 and no file is written.
    """
    command_line.start_messages(quiet)
    from hsi_export.exporting import export

    name = f"model{'.compact' * compact}{'.fp16' * fp16}.onnx"
    result = export(run, output or run / name, overwrite, fp16, tensorrt, compact)
    if as_json:
        command_line.print_json(result)
        return
    if not quiet:
        parity = result["parity"]
        click.echo(
            f"Parity on {parity['windows']} windows, {parity['pixels']} pixels: "
            f"probabilities differ by at most {parity['max_abs_difference']:.1e}, "
            f"{parity['equal_class_share']:.3%} have the same class.\n"
            f"{result['precision']}, {result['parameters']:,} parameters, "
            f"{result['bytes'] / 1e6:.2f} MB.",
            err=True,
        )
        for entry in parity["classes"]:
            if entry["pixels"] and entry["equal_class_share"] < 1:
                click.echo(
                    f"  {entry['name']}: {entry['equal_class_share']:.3%} of "
                    f"{entry['pixels']} pixels.",
                    err=True,
                )
        for shared in result.get("shared", ()):
            click.echo(
                f"{len(shared['layers'])} layers read {shared['rank']} mixtures of "
                f"{shared['channels']} channels.",
                err=True,
            )
        if fp16:
            kept = result["kept_fp32"]
            click.echo(f"Kept in fp32: {', '.join(kept) or 'nothing'}.", err=True)
            used = "bfloat16" if result["bfloat16"] else "float32"
            click.echo(f"OpenVINO computes this file in {used} at best.", err=True)
        if tensorrt:
            click.echo(f"Engine: {result['engine']['path']}.", err=True)
        # The report names every parameter; the parts they belong to are enough here.
        parts = dict.fromkeys(name.partition(".")[0] for name in result["dropped"])
        if parts:
            click.echo(f"Left out, for training only: {', '.join(parts)}.", err=True)
    command_line.echo(result["output"])


def main() -> None:
    """Run hsi-export."""
    command_line.run(command)
