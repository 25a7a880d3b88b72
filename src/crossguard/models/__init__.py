"""Encoders, fusions, the models that they make, and adapters for anyone's."""

from crossguard.models.adapt import Adapted, adapt
from crossguard.models.cut import cut
from crossguard.models.encoder import Encoder
from crossguard.models.fusion_model import FusionModel
from crossguard.models.series import SeriesNet
from crossguard.models.skeleton import HCN
from crossguard.models.video import VideoResNet

ENCODERS: dict[str, type[Encoder]] = {"video": VideoResNet, "hcn": HCN, "series": SeriesNet}

__all__ = ["ENCODERS", "HCN", "Adapted", "Encoder", "FusionModel", "SeriesNet", "VideoResNet", "adapt", "cut"]
