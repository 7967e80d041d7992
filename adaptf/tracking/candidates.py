"""Candidates beside production: the versions of registered models that the alias `shadow` names."""

from adaptf.tracking.production import Promoted, models, with_hash

ALIAS = "shadow"


def candidates() -> dict[str, Promoted]:
    """By registered model, of all models of this package that have one."""
    return {
        model.name: with_hash(model, str(model.aliases[ALIAS]))
        for model in models()
        if ALIAS in model.aliases
    }
