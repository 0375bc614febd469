"""Prompts: what is asked of the text-to-image model, from a class name to the plan of all draws."""

from diffcore.prompts.book import (
    PromptBook,
    clean_class_name,
    find_conflicts,
    list_prompt_books,
    load_prompt_book,
    negatives_for,
    write_prompt,
)
from diffcore.prompts.plan import PLAN_COLUMNS, plan_generation

__all__ = [
    "PLAN_COLUMNS", "PromptBook", "clean_class_name", "find_conflicts",
    "list_prompt_books", "load_prompt_book", "negatives_for", "plan_generation", "write_prompt",
]  # fmt: skip
