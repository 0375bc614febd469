"""Prompts: what is asked of the text-to-image model, from a class name to the plan of all draws."""

from diffcore.prompts.plan import plan_generation
from diffcore.prompts.prompt_set import clean_class_name, load_prompt_set
