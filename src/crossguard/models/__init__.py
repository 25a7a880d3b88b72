"""Encoders, fusions, the models that they make, and adapters for anyone's."""

from crossguard.models.adapt import Adapted, adapt
from crossguard.models.audio import AudioCNN
from crossguard.models.cut import cut
from crossguard.models.encoder import Encoder
from crossguard.models.frames import FrameCNN
from crossguard.models.fusion_model import FusionModel
from crossguard.models.logmel import LogMel
from crossguard.models.outline import OutlineNet
from crossguard.models.series import SeriesNet
from crossguard.models.skeleton import HCN
from crossguard.models.transformer import FrameTransformer
from crossguard.models.video import VideoResNet

ENCODERS: dict[str, type[Encoder]] = {
    "video": VideoResNet,
    "frames": FrameCNN,
    "hcn": HCN,
    "series": SeriesNet,
    "audio": AudioCNN,
    "transformer": FrameTransformer,
    "outline": OutlineNet,
}

__all__ = [
    "ENCODERS",
    "HCN",
    "Adapted",
    "AudioCNN",
    "Encoder",
    "FrameCNN",
    "FrameTransformer",
    "FusionModel",
    "LogMel",
    "OutlineNet",
    "SeriesNet",
    "VideoResNet",
    "adapt",
    "cut",
]
