"""MinSim: features of different modalities are pushed apart (Tian and Xu, CVPR 2021, arXiv 2104.02000)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from crossguard.core.batch import Output
from crossguard.core.errors import ModelError
from crossguard.defences.term import Given, Term, asked, mean_over_pairs


def similarity(output: Output, given: Given) -> Tensor:
    """The mean cosine of two modalities' latents, in [-1, 1]; the paper's loss is cross-entropy + 1 x this.

    Of more than two modalities, the mean over pairs, each over the samples that have both (our choice). Raises
    ModelError where the latents differ in width.
    """
    latents = asked("similarity", output.latents, "latents", least=3)
    latents.pop("fused", None)
    widths = {name: z.shape[1] for name, z in latents.items()}
    if len(set(widths.values())) != 1:
        raise ModelError(
            f"the term 'similarity' compares latents of one width, found {widths}; bring them to one: fusion "
            f"{{name: concat, width: 128}}, or exfmem with a width"
        )
    return mean_over_pairs(list(latents), given, lambda a, b: F.cosine_similarity(latents[a], latents[b], dim=1))


SIMILARITY = Term("latents", similarity)
