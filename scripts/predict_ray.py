"""Reads any number of pictures on a Ray cluster, or on this machine, to one Parquet row each.

    pip install -e '.[ray]'
    python scripts/predict_ray.py pictures/ answers/ --one-digit

A picture that cannot be read becomes a row with an `error`. Run again, it resumes where it stopped,
using the checkpoint in ANSWERS-checkpoint.
"""

import os
from typing import Annotated

import typer

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # by default Ray sends usage statistics
# Further processors that Ray is told it has on a single machine. Its own tasks need some, and a
# resumed run would wait forever for one.
SPARE = 4


def main(
    pictures: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures, or a Parquet file with the columns path (unique) and "
            "bytes; on a cluster, at a path that all machines can read."
        ),
    ],
    answers: Annotated[str, typer.Argument(help="The folder for the answers.")],
    model: Annotated[str | None, typer.Option(help="The model that classifies the digits.")] = None,
    one_digit: Annotated[
        bool, typer.Option(help="Each picture shows one digit, as for predict.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Number of workers. Default: one per processor.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures per batch.")] = 128,
) -> None:
    """Reads any number of pictures with Ray; run again, it resumes where it stopped."""
    import ray

    from keras_digitnet import BatchReader

    # The cluster at RAY_ADDRESS, or a temporary one on this machine.
    processors = None if "RAY_ADDRESS" in os.environ else os.cpu_count() or 1
    ray.init(include_dashboard=False, num_cpus=processors and processors + SPARE)
    processors = processors or int(ray.cluster_resources()["CPU"])
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
        compute=ray.data.ActorPoolStrategy(size=workers or processors),
        num_cpus=0.5,  # leaves processors for Ray's own tasks
    )
    answered.write_parquet(answers)


if __name__ == "__main__":
    typer.run(main)
