"""The errors and warnings of linjax: each names a path and what was expected there."""


class LinjaxError(ValueError):
    """Something that was given to linjax doesn't fit; nothing has been changed."""


class StructureError(LinjaxError):
    """A parameter pytree, an input or evidence doesn't match the traced network."""


class EvidenceError(LinjaxError):
    """Evidence can't be gathered or used: empty, not finite, unsound, or missing a part."""


class StoreError(LinjaxError):
    """A file can't be saved or loaded: it is damaged, hostile, newer, or not of linjax."""


class FoldWarning(UserWarning):
    """Something was left as it was, or is less than what was asked for; the reason is given."""
