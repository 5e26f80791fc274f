"""Hand-written forwards for models that are already there: convert(model), explain(model)."""
