"""What the method costs: measured in steps, images and epochs, estimated, and benchmarked."""

from diffcore.overhead.evaluate import (  # isort: skip
    Budget, amortise, break_even, image_costs, image_parts, make_budgets, make_settings,
    step_overheads, step_parts, time_decoding, time_images, time_steps,
)  # fmt: skip

__all__ = [
    "Budget", "amortise", "break_even", "image_costs", "image_parts", "make_budgets",
    "make_settings", "step_overheads", "step_parts", "time_decoding", "time_images", "time_steps",
]  # fmt: skip
