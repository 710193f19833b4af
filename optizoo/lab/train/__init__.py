"""Training: one model, one optimizer, one seed; resumable to the bit, lean enough to time optimizers with.

The loop (:mod:`~optizoo.lab.train.loop`) is the same for all; its parts are apart: what is trained
(:mod:`~optizoo.lab.train.building`, :mod:`~optizoo.lab.train.objective`), the steps as Python makes them
(:mod:`~optizoo.lab.train.eager`) and as a device repeats them (:mod:`~optizoo.lab.train.static`,
:mod:`~optizoo.lab.train.graph`), evaluation (:mod:`~optizoo.lab.train.evaluation`), how far a run has come and when it
stops (:mod:`~optizoo.lab.train.progress`), and the state that a checkpoint holds (:mod:`~optizoo.lab.train.run`).

Many runs may go through it as one (:mod:`~optizoo.lab.train.grouping`, :mod:`~optizoo.lab.train.population`,
:mod:`~optizoo.lab.train.stack`), and many processes may make one run (:mod:`~optizoo.lab.train.distributed`).
"""

from optizoo.lab.train.building import build_model, build_optimizer, resolve_device
from optizoo.lab.train.evaluation import evaluate
from optizoo.lab.train.grouping import populations
from optizoo.lab.train.loop import Trained, train
from optizoo.lab.train.objective import penalty
from optizoo.lab.train.population import train_population, train_runs

__all__ = [
    "Trained",
    "build_model",
    "build_optimizer",
    "evaluate",
    "penalty",
    "populations",
    "resolve_device",
    "train",
    "train_population",
    "train_runs",
]
