"""Recipes: one YAML file that says all of a training and its evaluation, checked whole before anything runs."""

from crossguard.recipe.recipe import Recipe, load, validate
from crossguard.recipe.run import build_model, evaluate_run, load_splits, train_run, trained

__all__ = [
    "Recipe",
    "build_model",
    "evaluate_run",
    "load",
    "load_splits",
    "train_run",
    "trained",
    "validate",
]
