"""The learning rate of every step: one warmup, then the shape of each phase."""

import math

from smelt.train.recipe import TrainRecipe


def phase_at(recipe: TrainRecipe, step: int) -> tuple[int, int]:
    """(index of the phase, step within it) of a zero-based step of the run."""
    for index, phase in enumerate(recipe.phases):
        if step < phase.steps:
            return index, step
        step -= phase.steps
    raise IndexError(step)


def learning_rate(recipe: TrainRecipe, step: int) -> float:
    """Learning rate of a zero-based step.

    A decaying phase goes from `lr` to `final * lr`, linearly or along half a cosine.
    """
    index, inner = phase_at(recipe, step)
    phase = recipe.phases[index]
    warm = min(1.0, (step + 1) / max(1, recipe.optimizer.warmup_steps))
    along = inner / max(1, phase.steps - 1)
    height = {
        "constant": 1.0,
        "linear": 1 - along,
        "cosine": 0.5 * (1 + math.cos(math.pi * along)),
    }[phase.schedule]
    low = 1.0 if phase.schedule == "constant" else phase.final
    return recipe.optimizer.lr * warm * (low + (1 - low) * height)
