"""Reads any number of pictures on a Ray cluster, or on this machine: a Parquet row for each.

    pip install -e '.[ray]'
    python scripts/predict_ray.py pictures/ answers/ --one-digit

A picture that cannot be read is a row with an `error`. Run again, it goes on where it stopped; what
has been answered is noted in ANSWERS-checkpoint.
"""

import os
from typing import Annotated

import typer

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use


def main(
    pictures: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures, or Parquet of the columns path, each another, and bytes; "
            "on a cluster where every machine finds it."
        ),
    ],
    answers: Annotated[str, typer.Argument(help="The folder for the answers.")],
    model: Annotated[str | None, typer.Option(help="What names the digits.")] = None,
    one_digit: Annotated[bool, typer.Option(help="Each picture shows one, as predict.")] = False,
    workers: Annotated[int | None, typer.Option(help="Else one a processor.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures that a worker gets at a time.")] = 128,
) -> None:
    """Reads any number of pictures with Ray; run again, it goes on where it stopped."""
    import ray

    from keras_digitnet import BatchReader

    ray.init(include_dashboard=False)  # the cluster of RAY_ADDRESS, else one that ends with this
    ray.data.DataContext.get_current().checkpoint_config = ray.data.checkpoint.CheckpointConfig(
        "path", f"{answers.rstrip('/')}-checkpoint", delete_checkpoint_on_success=False
    )
    if pictures.rstrip("/").endswith(".parquet"):
        rows = ray.data.read_parquet(pictures, columns=["path", "bytes"])
    else:
        rows = ray.data.read_binary_files(pictures, include_paths=True)
    answered = rows.map_batches(
        BatchReader,
        fn_constructor_args=(model, one_digit),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=workers or int(ray.cluster_resources()["CPU"])),
        num_cpus=0.5,  # where workers hold all processors, a run that goes on waits forever
    )
    answered.write_parquet(answers)


if __name__ == "__main__":
    typer.run(main)
