"""Units, budgets, conditions and flags in plain words: the one place where the page's language is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from crossguard.core import Modality

NOTHING = "\u2013"  # what was not measured

_METRES = {"m", "metre", "metres", "meter", "meters"}
_PLAIN = {"millimetre": "mm", "millimetres": "mm", "1": "", "": ""}
_INTENSITY = {"intensity", "pixel", "pixels", "pixel intensity", "[0, 1]"}

METRICS = {
    "accuracy": "accuracy",
    "hit@1": "Hit@1",
    "map": "mean average precision",
    "gap": "GAP@20",
    "perr": "precision at equal recall",
}

# What each flag of the machine checks comes to; its detail, which follows on the page, says what was seen.
_FLAGS = {
    "no_gradient": "The attack is blind to a modality",
    "non_finite_gradient": "Gradients break down",
    "larger_budget_helps": "A larger budget helped the model",
    "iterative_not_better": "One step did more harm than many",
    "attack_not_converged": "The attack had not finished",
    "joint_weaker_than_single": "The joint attack is weaker than a single one",
    "noise_beats_attack": "Random noise did more harm than the attack",
    "non_finite_answers": "The model does not always answer",
    "outside_budget": "The attack left its budget",
    "unbounded_attack_fails": "Even an unbounded attack fails",
    "attack_view_weaker": "The attack view hides something",
}
_CHECKS = {
    "gradient": "gradients reach the input",
    "finite_gradient": "gradients are finite",
    "larger_budget": "a larger budget never helps the model",
    "iterative": "many steps beat a single one",
    "more_steps": "more steps change nothing",
    "joint_search": "the joint attack is at least as strong as single ones",
    "noise": "random noise does less harm than the attack",
    "finite_answers": "every answer is a number",
    "budget": "no success lay outside the budget",
    "unbounded": "an unbounded joint attack fools nearly all",
    "attack_view": "the model itself is no weaker than its attack view",
}


def listing(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as a number of per cent without the sign; a dash where it is not known."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}"


def plain(number: float, form: str = ".2f") -> str:
    """A number in this form; a dash where it is not known."""
    return f"{number:{form}}" if math.isfinite(number) else NOTHING


def count(number: float) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{round(number):,}".replace(",", "\u202f")


def large(number: float) -> str:
    """A count to three digits: "950", "12.4 k", "3.1 M", "2.0 G"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}\u202f{letter}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def amount(value: float, unit: str, bounds: tuple[float, float] | None = None) -> str:
    """A budget in its unit: 0.02 m is "2.0 cm", 8/255 of an intensity in [0, 1] is "8/255", 40 mm stays "40 mm"."""
    if unit in _METRES:
        if value >= 1:
            return f"{value:.3g} m"
        if 0 < value < 0.01:
            return f"{1000 * value:.3g} mm"
        # One digit behind the point at the least, three in all.
        return max(f"{100 * value:.1f}", f"{100 * value:.3g}", key=len) + " cm"
    codes = 255 * value
    eighths = round(8 * codes) / 8
    if (unit in _INTENSITY or bounds == (0.0, 1.0)) and 0 < eighths <= 255 and abs(codes - eighths) < 1e-3:
        return f"{eighths:g}/255"
    name = "" if unit in _INTENSITY else _PLAIN.get(unit, unit)
    return f"{value:.3g} {name}".rstrip()


def budget_amount(modality: Modality, budget: Mapping[str, Any], scale: float = 1.0) -> str:
    """How large a modality's budget is at a scale, in its unit."""
    eps = math.inf if budget["eps"] is None else float(budget["eps"])
    if budget["norm"] == "snr":
        return f"{eps - 20 * math.log10(scale):.3g} dB" if scale else "inf dB"
    if budget["norm"] == "l0":
        return f"{math.floor(scale * eps)} values"
    bounds = budget.get("bounds") or modality.bounds
    pair = None if bounds is None else (float(bounds[0]), float(bounds[1]))
    size = scale * eps
    if pair is not None and budget["norm"] == "linf" and size >= pair[1] - pair[0]:
        return f"{amount(pair[1] - pair[0], modality.unit, pair)} (anything)"
    return amount(size, modality.unit, pair)


def budget_words(modality: Modality, budget: Mapping[str, Any], scale: float = 1.0) -> str:
    """What an attacker may do to one modality: "up to 2.0 cm on every joint coordinate of skeleton"."""
    kinds = [str(c["kind"]).replace("_", " ") for c in budget.get("constraints", ())]
    return _norm_words(modality, budget, scale) + (f" (limited by {listing(kinds)})" if kinds else "")


def _norm_words(modality: Modality, budget: Mapping[str, Any], scale: float) -> str:
    size = budget_amount(modality, budget, scale)
    if budget["norm"] == "snr":
        return f"a change of {modality.name} at least {size} below the signal"
    if budget["norm"] == "l0":
        return f"up to {size} of {modality.name}"
    if modality.unit in _INTENSITY:
        size += " of intensity"
    if budget["norm"] == "linf":
        axes = modality.axes
        part = "joint coordinate" if "V" in axes else "pixel" if "H" in axes or "W" in axes else "value"
        return f"up to {size} on every {part} of {modality.name}"
    norm = {"l2": "Euclidean length", "l1": "sum of absolute values"}.get(budget["norm"], f"{budget['norm']} norm")
    return f"a change of {modality.name} with a {norm} of up to {size}"


def short(condition: str) -> str:
    """A condition as a column is headed."""
    kind, _, name = condition.partition(":")
    plain = {"any_one": "any one", "joint": "all at once", "missing": "without", "only": "only"}
    return f"{plain.get(kind, kind)} {name}".strip()


def sentence(condition: str) -> str:
    """A condition in a sentence: "with only rgb attacked"."""
    kind, _, name = condition.partition(":")
    return {
        "clean": "untouched",
        "noise": "with random noise of the same size",
        "missing": f"with {name} missing",
        "only": f"with only {name} attacked",
        "any_one": "with any one modality attacked",
        "joint": "with all modalities attacked at once",
    }.get(kind, condition)


def panel(condition: str) -> str:
    """A condition as the title of a panel."""
    kind, _, name = condition.partition(":")
    return {"any_one": "Any one modality", "joint": "All at once", "only": f"Only {name}"}.get(kind, opening(condition))


def together(attacked: Sequence[str]) -> str:
    """What the joint attack touches: "both" for two modalities."""
    return {1: f"{attacked[0] if attacked else ''} attacked", 2: "both attacked"}.get(
        len(attacked), f"all {len(attacked)} attacked"
    )


def manner(model: Mapping[str, Any]) -> list[str]:
    """What a reader must know of how a Record's `model` was attacked besides budgets: where it is cut, through what."""
    said = [
        f"{name} was attacked where {path} ends, not at the raw input: its budget is in the units of that layer"
        for name, path in (model.get("level") or {}).items()
    ]
    if model.get("attack_view"):
        said.append(
            "attacks followed the view that the model offers of itself (attack_view), since its own gradient hides a "
            "part; what counts is what the model itself says"
        )
    return said


def flag_words(name: str) -> str:
    """What a flag means for the reader; its own name where it is a new one."""
    return _FLAGS.get(name, name.replace("_", " ").capitalize())


def check_words(name: str) -> str:
    """What a check looked at: "more_steps/only:rgb" is "more steps change nothing (only rgb)"."""
    kind, _, where = name.partition("/")
    return _CHECKS.get(kind, kind.replace("_", " ")) + (f" ({short(where)})" if where else "")


def opening(words: str) -> str:
    """The same words with a capital first."""
    return words[:1].upper() + words[1:]


def interval(low: float, high: float, digits: int = 1) -> str:
    """The two ends of an interval of shares, in per cent."""
    return f"{percent(low, digits)}\u2013{percent(high, digits)}"


def points(value: float) -> str:
    """A signed number of points with a real minus."""
    return f"{value:+.1f}".replace("-", "\u2212")


def value_words(value: Any) -> str:
    """A value of a settings table."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(value_words(v) for v in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {value_words(v)}" for k, v in value.items()) or "none"
    return str(value)
