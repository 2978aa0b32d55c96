"""Fine-tuning objectives: supervised, continual pre-training with replay, classification.

>>> from polmrs import finetune
>>> finetune.SFT().label_smoothing
0.0
"""

from polmrs.finetune.classification import Classification
from polmrs.finetune.continual import Continual, Replayed
from polmrs.finetune.sft import SFT

__all__ = ["SFT", "Classification", "Continual", "Replayed"]
