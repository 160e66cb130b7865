"""What is wrong with a request, said in the words of NestJS's class-validator."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_SENTENCES = {
    "missing": "{path} should not be null or undefined",
    "string_type": "{path} must be a string",
    "string_too_long": "{path} must be shorter than or equal to {max_length} characters",
    "string_too_short": "{path} must be longer than or equal to {min_length} characters",
    "bool_type": "{path} must be a boolean value",
    "dict_type": "{path} must be an object",
    "model_type": "{path} must be an object",
    "list_type": "{path} must be an array",
    "greater_than_equal": "{path} must not be less than {ge}",
    "less_than_equal": "{path} must not be greater than {le}",
    "int_type": "{path} must be a number conforming to the specified constraints",
    "int_parsing": "{path} must be a number conforming to the specified constraints",
    "int_from_float": "{path} must be an integer number",
    "float_type": "{path} must be a number conforming to the specified constraints",
    "literal_error": "{path} must be one of the following values: {expected}",
    "value_error": "{path} {error}",
}


class BadRequest(Exception):
    """A 400. `message` is what NestJS puts under that name: one sentence, or a list of them."""

    def __init__(self, message: str | list[str]) -> None:
        super().__init__(message)
        self.message = message


def bad_request(error: ValidationError) -> BadRequest:
    """All faults: `customer.name must be a string`, `customer.property x should not exist`."""
    return BadRequest([_sentence(item) for item in error.errors(include_url=False)])


def _sentence(error: ErrorDetails) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "body"
    if error["type"] == "extra_forbidden":
        parent, dot, name = path.rpartition(".")
        return f"{parent}{dot}property {name} should not exist"
    sentence = _SENTENCES.get(error["type"])
    return sentence.format(path=path, **error.get("ctx", {})) if sentence else f"{path} {error['msg']}"
