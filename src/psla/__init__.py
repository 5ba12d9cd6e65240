"""psla: train, evaluate and use audio taggers with the PSLA recipe."""
