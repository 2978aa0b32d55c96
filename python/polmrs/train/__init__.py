"""Training: one loop, objectives that name their terms, optimizers and schedules by name, checkpoints that resume.

>>> from polmrs.train import Schedule
>>> Schedule(shape="linear").factor(5, steps=10)
0.5
"""

from polmrs.train.evaluation import Evaluation
from polmrs.train.following import Reference
from polmrs.train.loop import Run, fit
from polmrs.train.objective import Objective
from polmrs.train.optimizers import Group, Optim
from polmrs.train.schedules import Schedule

__all__ = ["Evaluation", "Group", "Objective", "Optim", "Reference", "Run", "Schedule", "fit"]
