"""
Points and scalars of NUT-00 and NUT-12: the only module that touches cashu's cryptography and coincurve.

Everything that comes from a mint or a database arrives as hex text and is read strictly: compressed points of 66
lower- or upper-case hex characters, scalars of 64. What can't be read is MintUntrusted, or False where the question
is whether a proof holds; no other exception gets out.
"""

from __future__ import annotations

from typing import Any, Final

from cashu.core.crypto.b_dhke import alice_verify_dleq, hash_to_curve, step1_alice, step3_alice
from coincurve import PrivateKey, PublicKey

from melt.errors import MintUntrusted
from melt.model import Y

POINT_HEX: Final = 66
"""Length of a compressed point in hex characters."""
SCALAR_HEX: Final = 64
SCALAR_BYTES: Final = 32
ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The order of secp256k1: scalars lie in 1 .. ORDER - 1."""


def y_of(secret: str) -> Y:
    """
    Y of a proof (NUT-00): ``hash_to_curve`` of the secret's UTF-8 bytes, as 66 lower-case hex characters.

    Raises ValueError on text that has no UTF-8 form (a lone surrogate).
    """
    return Y(hash_to_curve(secret.encode("utf-8")).format().hex())


def is_point(text: object) -> bool:
    """Whether ``text`` is the compressed hex form of a point on the curve."""
    return _point(text) is not None


def is_scalar(text: object) -> bool:
    """Whether ``text`` is the hex form of a scalar in 1 .. ORDER - 1."""
    return _scalar(text) is not None


def blind(secret: str, r: bytes) -> str:
    """
    B_ of a secret under the blinding factor ``r`` (NUT-00), as hex.

    Raises ValueError when ``r`` is not a scalar or the sum is no point.
    """
    b_, _ = step1_alice(secret, PrivateKey(_checked(r)))
    return str(b_.format().hex())


def unblind(c_: str, r: bytes, public_key: str) -> str:
    """
    C of a blind signature (NUT-00): ``C_ - r*A``, as hex.

    Raises MintUntrusted when ``c_`` or ``public_key`` is no point, or the difference is none; ValueError when
    ``r`` is not a scalar.
    """
    signed, key, factor = _point(c_), _point(public_key), PrivateKey(_checked(r))
    if signed is None or key is None:
        raise MintUntrusted("a blind signature or a public key is not a point on the curve")
    try:
        return str(step3_alice(signed, factor, key).format().hex())
    except ValueError as error:
        raise MintUntrusted("a blind signature unblinds to no point") from error


def dleq_holds(b_: str, c_: str, e: str, s: str, public_key: str) -> bool:
    """Whether the DLEQ proof (``e``, ``s``) shows that ``public_key``'s owner signed ``b_`` as ``c_`` (NUT-12, Alice)."""
    points = (_point(b_), _point(c_), _point(public_key))
    scalars = (_scalar(e), _scalar(s))
    return all(part is not None for part in points + scalars) and _verify(points, scalars)


def proof_dleq_holds(secret: str, c: str, e: str, s: str, r: str, public_key: str) -> bool:
    """Whether a stored proof's DLEQ shows that the mint signed it (NUT-12, Carol): blinds again with ``r`` and verifies."""
    unblinded: Any = _point(c)
    key: Any = _point(public_key)
    factor: Any = _scalar(r)
    scalars = (_scalar(e), _scalar(s))
    if any(part is None for part in (unblinded, key, factor, *scalars)):
        return False
    try:
        b_, _ = step1_alice(secret, factor)
        c_ = unblinded.combine([key.multiply(factor.secret)])
    except ValueError:  # also text without a UTF-8 form
        return False
    return _verify((b_, c_, key), scalars)


def _verify(points: tuple[Any, Any, Any], scalars: tuple[Any, Any]) -> bool:
    b_, c_, key = points
    e, s = scalars
    try:
        return bool(alice_verify_dleq(b_, c_, e, s, key))
    except ValueError:  # R1 or R2 would be the point at infinity: no honest proof has that
        return False


def _point(text: object) -> Any | None:
    if not isinstance(text, str) or len(text) != POINT_HEX or not text.isascii():
        return None
    try:
        return PublicKey(bytes.fromhex(text))
    except ValueError:
        return None


def _scalar(text: object) -> Any | None:
    if not isinstance(text, str) or len(text) != SCALAR_HEX or not text.isascii():
        return None
    try:
        raw = bytes.fromhex(text)
        return PrivateKey(_checked(raw))
    except ValueError:
        return None


def _checked(raw: bytes) -> bytes:
    """``raw`` itself when it has a scalar's length: coincurve checks the range, but would pad what is short."""
    if len(raw) != SCALAR_BYTES:
        raise ValueError("a scalar has 32 bytes")
    return raw
