"""Phone numbers as people write them -> E.164. Pure; owns no other rule about contacts."""

from __future__ import annotations

import re

import phonenumbers

from boostedcalls.common.errors import ServiceError, problem

# Besides what people type: the dashes, no-break spaces and direction marks that come along when a number is copied.
_SEPARATORS = re.compile(r"[\s()./\-\u2010-\u2015\u2212\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]+")
_INTERNATIONAL = re.compile(r"\+[0-9]{7,15}")


def known_region(region: str) -> str:
    """The two-letter region itself. Raises ValueError when no numbering plan is known for it."""
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError("is not a region with a numbering plan, such as US or IN")
    return region


def normalise(raw: str, region: str) -> str:
    """The number in E.164. Raises ServiceError phone_invalid.

    With a leading `+` the separators go and 7 to 15 digits must remain: nothing else is judged. Without it the number
    is read as one dialled inside `region`.
    """
    compact = _SEPARATORS.sub("", raw).replace("\uff0b", "+")
    if compact.startswith("+"):
        if not _INTERNATIONAL.fullmatch(compact):
            raise _invalid("needs 7 to 15 digits after the +")
        return compact
    try:
        number = phonenumbers.parse(raw, region)
    except phonenumbers.NumberParseException:
        raise _invalid(f"is not a number that can be read as one of {region}") from None
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise _invalid(f"is not a possible number in {region}; write other countries' with a leading +")
    if number.extension:
        raise _invalid("has an extension, which cannot be dialled")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _invalid(message: str) -> ServiceError:
    return problem("phone_invalid", f"The phone number {message}.", errors=[{"field": "phone", "message": message}])
