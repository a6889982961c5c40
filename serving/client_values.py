"""Ids, names and numbers that a caller lists: checked, and brought to the width of an input."""

from collections.abc import Sequence

from serving.client_tensors import Value

# Bounds what a float32 holds.
HIGHEST = 1e38


def check_texts(name: str, texts: Sequence[str], what: str = "product id") -> None:
    """Refuses what stands for nothing in a tensor, and a string in place of a list.

    Args:
        name: of the argument.
        texts: as the caller gave them.
        what: one of them.

    Raises:
        ValueError: names the argument, the rule and what was received.
    """
    if isinstance(texts, str):
        raise ValueError(f"{name} must be a sequence of {what}s, received the string {texts!r}.")
    if not all(texts):
        raise ValueError(f"{name} must hold no empty {what}, received one at position {list(texts).index('')}.")


def check_numbers(name: str, values: Sequence[float], low: float, high: float) -> None:
    """Refuses numbers outside of [low, high], NaN among them. Arguments and errors as for `check_texts`."""
    for place, value in enumerate(values):
        if not low <= value <= high:
            raise ValueError(
                f"{name} must hold numbers from {low:g} to {high:g}, received {value} at position {place}."
            )


def check_width(name: str, values: Sequence[float], width: int | None, why: str) -> None:
    """Refuses more or fewer values than the input has places; None = any number. Errors as for `check_texts`."""
    if width is not None and len(values) != width:
        raise ValueError(f"{name} must hold exactly {width} numbers, {why}; received {len(values)}.")


def padded(name: str, texts: Sequence[str], width: int | None, what: str = "product id") -> Sequence[str]:
    """Filled up with "" on the right; None = any width. Arguments and errors as for `check_texts`."""
    if width is not None and len(texts) > width:
        raise ValueError(
            f"{name} must hold at most {width} {what}s, which the model was exported with; received {len(texts)}."
        )
    return [*texts, *[""] * ((width or len(texts)) - len(texts))]


def newest(values: Sequence[Value], width: int | None, padding: Value) -> Sequence[Value]:
    """The last `width` values, padded on the left: the newest stands last."""
    if width is None:
        return values
    last = list(values[-width:]) if width else []
    return [padding] * (width - len(last)) + last
