"""Trains, folds and measures every network that the axes of a sweep ask for.

    python -m experiments.sweep --config=configs/digits_mlp.py --sweep=seed=0,1,2 \\
        --sweep=size=0.1,0.05 --workdir=runs/digits_seeds

``--sweep=FIELD=VALUE,VALUE`` varies a field of the config; ``seed`` stands for all seeds, a
rule's name for its amounts, ``dataset.name=*`` for every table in ``--data_dir``. A config may
bring axes of its own. ``--processes=N`` spreads the work over N processes of this machine;
on several machines start one process on each, with ``--process_id=I`` beside ``--processes=N``, on
a folder that all of them see.

The same command takes a sweep up where it was stopped. Without axes it is a run of one network,
``python -m experiments.main``.
"""

from experiments.main import start

if __name__ == "__main__":
    start()
