"""Model merging: checkpoints larger than RAM, or state dicts in memory, by mergekit's methods.

>>> import numpy as np
>>> base = {"w": np.zeros(4, np.float32)}
>>> math = {"w": np.array([1, 2, -3, 0.1], np.float32)}
>>> code = {"w": np.array([1, -1, 1, 0.1], np.float32)}
>>> merge({"math": math, "code": code}, base=base, method=TIES(density=0.75))["w"]
array([ 1.,  2., -3.,  0.], dtype=float32)
"""

from polmrs.merge.connectivity import Connectivity, lmc
from polmrs.merge.custom import Custom
from polmrs.merge.method import Method
from polmrs.merge.methods import (
    DARE,
    DARETIES,
    DELLA,
    RAM,
    SCE,
    SLERP,
    TIES,
    ArceeFusion,
    Breadcrumbs,
    BreadcrumbsTIES,
    DELLALinear,
    ExPO,
    Fisher,
    Karcher,
    Linear,
    MetaGPT,
    ModelStock,
    MultiSLERP,
    NearSwap,
    NuSLERP,
    Passthrough,
    RAMPlusTL,
    RegMean,
    TaskArithmetic,
)
from polmrs.merge.run import merge, plan
from polmrs.merge.soup import Soup, greedy_soup
from polmrs.merge.sweeps import Sweep, sweep

__all__ = [
    "DARE",
    "DARETIES",
    "DELLA",
    "RAM",
    "SCE",
    "SLERP",
    "TIES",
    "ArceeFusion",
    "Breadcrumbs",
    "BreadcrumbsTIES",
    "Connectivity",
    "Custom",
    "DELLALinear",
    "ExPO",
    "Fisher",
    "Karcher",
    "Linear",
    "MetaGPT",
    "Method",
    "ModelStock",
    "MultiSLERP",
    "NearSwap",
    "NuSLERP",
    "Passthrough",
    "RAMPlusTL",
    "RegMean",
    "Soup",
    "Sweep",
    "TaskArithmetic",
    "greedy_soup",
    "lmc",
    "merge",
    "plan",
    "sweep",
]
