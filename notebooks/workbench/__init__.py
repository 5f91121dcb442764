"""workbench: the training program that the incidents happen to. Provided; nothing to edit.

    from workbench import Digits, MLP, Net, digits, evaluate, fingerprint, train

``faults`` breaks things on purpose, ``launch`` runs programs and captures them, ``figures``
draws what came of it.
"""

from workbench.data import Digits, batches, digits
from workbench.identity import fingerprint
from workbench.models import MLP, Net
from workbench.training import History, evaluate, train, train_step

__all__ = [
    "MLP",
    "Digits",
    "History",
    "Net",
    "batches",
    "digits",
    "evaluate",
    "fingerprint",
    "train",
    "train_step",
]
