"""Data sets: one reader a set, one file each; every reader returns Splits, and `SETS` names them."""

from crossguard.data import youtube8m
from crossguard.data.base import Dataset, Loader, Splits, TensorDataset, hold_out
from crossguard.data.sets import SETS, SOURCES, check
from crossguard.data.source import Check, DataSource
from crossguard.data.video import read_video

__all__ = [
    "SETS",
    "SOURCES",
    "Check",
    "DataSource",
    "Dataset",
    "Loader",
    "Splits",
    "TensorDataset",
    "check",
    "hold_out",
    "read_video",
    "youtube8m",
]
